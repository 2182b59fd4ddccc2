"""LIBERO itself: what a model learns from its files is what it sees and does in its simulator.

``make conformance-libero LIBERO_PYTHON=…``: a Python in which LIBERO runs (its assets are downloaded at its first
use), and in which ``xwam-client``, ``xwam-benchmarks`` and h5py are installed. Three things: (1) an episode that
LIBERO recorded is read as ``robots/libero.json`` says, and its actions, played through the adapter, lead through the
same states and pictures; (2) ``xwam check data`` finds no mistake in that file; (3) a model trained on it is served and
``xwam-benchmark`` plays it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.client.openpi_conformance import free_port, wait_until_healthy
from tests.client_benchmarks.metadata import FILES, of_file
from tests.examples import SHORT_VAE
from xwam.check.data import check_data
from xwam.data.hdf5_read import open_hdf5
from xwam.robot.robot_json import load_robot
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline

HERE = Path(__file__).parent
XWAM = (sys.executable, "-c", "from xwam.cli import main; main()")


def main(libero_python: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        (folder / "metadata.json").write_text(json.dumps(of_file("libero")[1]))
        compare_states_and_pictures(libero_python, folder)
        findings = check_data(folder / "data", load_robot(FILES / "libero.json"))
        wrong = [finding for finding in findings if finding.level == "wrong"]
        assert not wrong, wrong
        print(f"xwam check data: {len(findings)} findings, none of them wrong")
        serve_and_play(libero_python, folder)


def compare_states_and_pictures(libero_python: str, folder: Path) -> None:
    def libero(what: str) -> None:
        subprocess.run([libero_python, HERE / "libero_robot.py", what, folder], check=True)

    libero("record")
    episodes = open_hdf5(folder / "data", robot=load_robot(FILES / "libero.json"))
    read = episodes.info(0)
    np.savez(folder / "read.npz", state=read.state, action=read.action)
    libero("play")
    played = np.load(folder / "played.npz")
    count = len(read.action)
    difference = np.abs(played["state"][:count] - read.state[:count]).max()
    assert difference < 1e-5, f"states differ by {difference}"
    moved = np.ptp(read.state[:, :3], axis=0).max()
    assert moved > 0.05, "the hand hardly moved: this compares nothing"
    for place, camera in enumerate(("agentview", "wrist")):
        frames = episodes.frames(0, camera, np.arange(count))
        same = np.mean(frames == played["views"][:count, place])
        assert same > 0.999, f"pictures of {camera}: {same:.2%} of the numbers are equal"
    print(f"{count} actions of LIBERO's file played: states differ by {difference:.0e}, pictures are the same")


def serve_and_play(libero_python: str, folder: Path) -> None:
    port, out = free_port(), folder / "result.json"
    sources = Sources(every=8, robot=(str(FILES / "libero.json"),))
    changes = {"num_steps": 2, "batch_size": 2, "validate_every": 0}
    checkpoint = run_pipeline("debug", folder / "data", folder / "run", changes, vae=SHORT_VAE, sources=sources)
    server = subprocess.Popen([*XWAM, "serve", checkpoint, "--port", str(port), "--actions-only"])
    try:
        wait_until_healthy(port, server)
        command = [libero_python, "-c", "from xwam_benchmarks.command import main; main()", "libero"]
        command += ["--suite", "libero_goal", "--tasks", "open_the_middle_drawer_of_the_cabinet", "--episodes", "2"]
        command += ["--port", str(port), "--max-steps", "6", "--replan-every", "3", "--size", "64", "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    finally:
        server.terminate()
        server.wait(30)
    result = json.loads(out.read_text())
    assert [row["num_steps"] for row in result["episodes"]] == [6, 6]
    print(f"xwam-benchmark played {len(result['episodes'])} episodes with {result['settings']['server']['checkpoint']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
