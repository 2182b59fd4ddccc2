"""Two replicas on one machine: robots are spread, each stays with its replica, and all get the policy's actions."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from xwam.policy import load_policy
from xwam.serve.ray_serve import RayConfig, read_arguments, service_of

SCRIPT = Path(__file__).with_name("ray_robots.py")


def test_arguments_of_serve_run():
    found = read_arguments({"checkpoint": "x", "replicas": "2", "actions_only": "true", "gpus_per_replica": 0.5})
    assert found == RayConfig(checkpoint="x", replicas=2, actions_only=True, gpus_per_replica=0.5)
    with pytest.raises(ValueError, match="did you mean 'replicas'"):
        read_arguments({"checkpoint": "x", "replica": 2})
    with pytest.raises(ValueError, match="checkpoint=… is missing"):
        read_arguments({})
    with pytest.raises(ValueError, match="max_replicas=1"):
        read_arguments({"checkpoint": "x", "replicas": 2, "max_replicas": 1})
    for wrong in ({"precision": "float16"}, {"quantize": "int4"}, {"max_batch": "0"}, {"action_steps": -1}):
        name, value = next(iter(wrong.items()))
        with pytest.raises(ValueError, match=f"{name}='?{value}"):
            read_arguments({"checkpoint": "x", **wrong})


def test_a_replica_is_as_the_arguments_say(served_folder):
    words = {"precision": "bfloat16", "max_batch": "2", "action_steps": "1", "video_steps": "2", "compile": "yes"}
    service = service_of(read_arguments({"checkpoint": str(served_folder), **words}))
    assert service.metadata["precision"] == "bfloat16"
    assert (service.config.max_batch, service.config.is_compiled) == (2, True)
    denoise = service.policy.config.denoise
    assert (denoise.num_action_steps, denoise.num_video_steps) == (1, 2)
    own = service_of(read_arguments({"checkpoint": str(served_folder)})).policy.config
    assert own == load_policy(served_folder).config


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'xwam[ray]'")
@pytest.mark.timeout(600)
def test_two_replicas(served_folder):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(served_folder)], capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(set(told["replicas"])) == 2, "both replicas got robots"
    assert told["all_equal"], "whichever replica answers, a seed gives the same actions"
    assert told["worlds"] == len(told["replicas"])
    assert told["health"] == "OK\n"
    assert told["keyless"] == "refused"
