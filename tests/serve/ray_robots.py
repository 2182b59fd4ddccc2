"""Run by test_ray.py in a process of its own: Ray on this machine, two replicas, six robots. Prints JSON."""

import json
import os
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

# A busy machine takes longer than Ray's five seconds to start a proxy.
os.environ |= {f"RAY_SERVE_PROXY_{check}_TIMEOUT_S": "120" for check in ("READY_CHECK", "HEALTH_CHECK")}

import numpy as np
import ray
from ray import serve

sys.path.insert(0, str(Path(__file__).parents[2]))

from xwam_client.client import Client

from tests.examples import make_observation
from xwam.presets import preset
from xwam.serve.ray_serve import build

PORT, SEEN = 18213, make_observation(preset("debug"))

key = Path(tempfile.mkdtemp()) / "key"
key.write_text("open sesame\n")
ray.init(
    num_cpus=4, include_dashboard=False, configure_logging=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}
)
serve.start(http_options={"host": "127.0.0.1", "port": PORT})
serve.run(build({"checkpoint": sys.argv[1], "replicas": 2, "api_key_file": str(key)}))

robots = [Client(port=PORT, api_key="open sesame", connect_seconds=120) for _ in range(6)]
replicas = [robot.metadata["replica"] for robot in robots]
requests = [robot.ask(SEEN, seed=7, world=True) for robot in robots]
answers = [request.actions.result(240)["actions"] for request in requests]
worlds = [request.world.result(240)["type"] for request in requests]
again = [robot.infer(SEEN, seed=7) for robot in robots]
try:
    Client(port=PORT, connect_seconds=1).close()
    keyless = "accepted"
except ConnectionError:
    keyless = "refused"
told = {
    "replicas": replicas,
    "all_equal": all(np.array_equal(answer, answers[0]) for answer in (*answers, *again)),
    "worlds": worlds.count("world"),
    "health": urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=30).read().decode(),
    "keyless": keyless,
}
for robot in robots:
    robot.close()
serve.shutdown()
ray.shutdown()
print(json.dumps(told))
