"""Two replicas on one machine: robots are spread, each stays with its replica, and all get the policy's actions."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from xwam.serve.ray_serve import RayConfig, read_arguments

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
