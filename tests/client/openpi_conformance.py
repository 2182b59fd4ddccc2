"""PyPI's own openpi-client gets actions from our server. It needs an environment of its own: no test of the suite.

``make conformance-openpi``, or by hand::

    python -m venv .venv-openpi && .venv-openpi/bin/pip install openpi-client==0.1.2 typing_extensions
    python tests/client/openpi_conformance.py .venv-openpi/bin/python [CHECKPOINT]

(openpi-client wants numpy < 2 and forgets to ask for typing_extensions.) This script starts ``xwam serve`` and lets
that other Python run ``openpi_robot.py`` against it: unmodified client, both spellings of an observation, the broker
that plays chunks one action at a time, and a refusal. Then it compares the actions with the policy's own.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from xwam.compile import made_up_observation
from xwam.policy import load_policy
from xwam.records import Observation

HERE = Path(__file__).parent
WARM_UP_S = 300


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until_healthy(port: int, server: subprocess.Popen) -> None:
    """As an orchestrator would: ask /healthz. Raises RuntimeError when the server ends or takes too long."""
    deadline = time.monotonic() + WARM_UP_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                if answer.read() == b"OK\n":
                    return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"xwam serve is not healthy (exit status {server.poll()}).")


def main(other_python: str, checkpoint: str = "checkpoints/tiny") -> None:
    policy = load_policy(checkpoint, with_world=False)
    seen = made_up_observation(policy)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, image.shape, dtype=np.uint8) for name, image in seen.images.items()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/seen.npz", state=seen.state.astype(np.float32), **images)
        port = free_port()
        start = "from xwam.cli import main; main()"
        command = ["-c", start, "serve", checkpoint, "--port", str(port), "--actions-only"]
        server = subprocess.Popen([sys.executable, *command])
        try:
            wait_until_healthy(port, server)
            robot = [other_python, str(HERE / "openpi_robot.py"), str(port), folder]
            subprocess.run(robot, check=True, timeout=600)
        finally:
            server.terminate()
            server.wait(30)
        found = np.load(f"{folder}/actions.npz")
    observation = Observation(images=images, state=seen.state.astype(np.float32), instruction="close the drawer")
    expected = next(policy.predict(observation, seed=0, actions_only=True)).action
    for name in ("nested", "flat"):
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found["played"], found["flat"])
    print(f"openpi-client {found['version']}: actions {found['flat'].shape} equal the policy's own")


if __name__ == "__main__":
    main(*sys.argv[1:])
