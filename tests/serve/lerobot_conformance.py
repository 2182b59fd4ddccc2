"""LeRobot's own command plays our policies and records what we train on. It needs an environment of its own.

``make conformance-lerobot``, or by hand, with Python 3.12 or newer::

    python3.12 -m venv .venv-lerobot
    .venv-lerobot/bin/pip install 'lerobot[core-scripts]>=0.6,<0.7' \\
        packages/xwam-client '.[sim,serve,view]' packages/lerobot_policy_xwam
    python tests/serve/lerobot_conformance.py .venv-lerobot/bin [CHECKPOINT]

Five things: (1) an unmodified ``lerobot-rollout`` solves a simulated task with a checkpoint in its process; (2) so it
does with a server and real-time play, and records the episode; (3) ``xwam check data`` reads what LeRobot recorded, and
a model trains on it through a robot.json; (4) ``lerobot-rollout`` plays that model, in the robot's own numbers; (5)
``lerobot-eval`` plays two of its own environments at once, and writes what a model imagined.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from tests.client.openpi_conformance import free_port, wait_until_healthy
from tests.examples import make_cameras
from tests.train.encoded import write_checkpoint
from xwam.presets import preset
from xwam.robot.normalizer import Normalizer
from xwam.robot.robot_json import layout_of, load_robot
from xwam.train.checkpoint import Robot

ROBOT_FILE = Path(__file__).parents[2] / "benchmarks" / "lerobot_metaworld.json"
TASK, WORDS = "button-press-topdown-v3", "press the red button from above"
XWAM = (sys.executable, "-c", "from xwam.cli import main; main()")
ROBOT = {
    "name": "simulated_sawyer",
    "action_hz": 20.0,
    "state": [
        {"what": "position", "key": "observation.state", "start": 0},
        {"what": "rotation", "key": "observation.state", "start": 3},
        {"what": "gripper", "key": "observation.state", "start": 7},
    ],
    "action": [
        {"what": "position", "key": "action", "start": 0, "reference": "delta"},
        {"what": "rotation", "key": "action", "start": 3, "form": "axis_angle", "reference": "delta"},
        {"what": "gripper", "key": "action", "start": 6, "closed": 1, "open": -1},
        {"what": "joints", "arm": "right", "size": 7, "unit": "1", "key": "action", "start": 7},  # it has no right arm
    ],
    "cameras": [
        {"name": name, "key": f"observation.images.{name}", "near_m": 0.1, "far_m": 2.5}
        for name in ("left", "right", "wrist")
    ],
}  # fmt: skip


def run(*command: object, may_fail: bool = False) -> str:
    """Run to the end and return all it said. Raises RuntimeError with it when it fails."""
    ended = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    if ended.returncode and not may_fail:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{ended.stdout[-4000:]}")
    return ended.stdout


def roll(rollout: str, policy: dict[str, object], *more: object) -> str:
    """One run of LeRobot's command on the simulated robot."""
    chosen = [f"--policy.{key}={value}" for key, value in policy.items()]
    return run(
        rollout, "--policy.type=xwam", *chosen, "--policy.device=cpu", "--robot.type=xwam_simulator",
        f"--robot.task={TASK}", "--fps=20", f"--task={WORDS}", "--return_to_initial_position=false", *more,
    )  # fmt: skip


def untrained(folder: Path) -> Path:
    """A checkpoint with random weights for LeRobot's Meta-World."""
    robot, config = load_robot(ROBOT_FILE), preset("debug")
    config = replace(config, view_names=robot.view_names, model=replace(config.model, num_views=1))
    bounds = {"state_q01": np.full(16, -1.0), "state_q99": np.full(16, 1.0)}
    bounds |= {"action_q01": np.full(14, -0.02), "action_q99": np.full(14, 0.02)}
    about = Robot(Normalizer(layout=layout_of(robot), **bounds), make_cameras(config), robot)
    return write_checkpoint(folder, config, about)


def evaluated(folder: Path, command: Path, *more: str) -> dict:
    """What lerobot-eval says of the untrained policy in its own Meta-World."""
    run(
        command, "--policy.type=xwam", f"--policy.checkpoint={folder / 'untrained' / 'whole'}", "--policy.device=cpu",
        "--policy.push_to_hub=false", "--env.type=metaworld", f"--env.task={TASK}", f"--output_dir={folder / 'eval'}",
        *more,
    )  # fmt: skip
    return json.loads((folder / "eval" / "eval_info.json").read_text())


def num_frames(folder: Path, name: str) -> int:
    """Of the one video of that name."""
    (path,) = folder.rglob(f"{name}.mp4")
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def main(bin_: str, checkpoint: str = "checkpoints/tiny") -> None:
    rollout = f"{bin_}/lerobot-rollout"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_LEROBOT_HOME"] = str(folder / "lerobot")
        said = roll(rollout, {"checkpoint": checkpoint}, "--duration=6")
        assert "it was solved." in said, said
        print("1. solved, the checkpoint in LeRobot's process")

        port = free_port()
        server = subprocess.Popen([*XWAM, "serve", checkpoint, "--port", str(port), "--actions-only"])
        try:
            wait_until_healthy(port, server)
            recording = [
                "--strategy.type=episodic", "--dataset.repo_id=me/rollout_button", f"--dataset.root={folder / 'data'}",
                "--dataset.push_to_hub=false", "--dataset.num_episodes=1", "--dataset.episode_time_s=4",
                "--dataset.reset_time_s=0", "--dataset.fps=20", f"--dataset.single_task={WORDS}", "--play_sounds=false",
            ]  # fmt: skip
            policy = {"server": f"ws://127.0.0.1:{port}", "play": "realtime", "replan_every": 8}
            said = roll(rollout, policy, *recording)
            assert "it was solved." in said, said
        finally:
            server.terminate()
            server.wait(60)
        print("2. solved and recorded, a server in real-time play")

        robot, data, out = folder / "robot.json", folder / "data", folder / "run"
        robot.write_text(json.dumps(ROBOT))
        said = run(*XWAM, "check", "data", data, "--robot", robot, "--out", folder / "check", may_fail=True)
        position = next(line for line in said.splitlines() if "action 'left_position'" in line)
        gripper = next(line for line in said.splitlines() if "gripper 'left_gripper'" in line)
        assert position.startswith("fine"), said
        assert not gripper.startswith("WRONG"), said
        run(*XWAM, "train", "debug", "--data", data, "--robot", robot, "--out", out, "--vae-steps", 2, "--steps", 2)
        trained = max(out.glob("step-*"))
        print(f"3. read and trained on: {position.strip()}")

        said = roll(rollout, {"checkpoint": trained, "play": "overlap"}, "--duration=3")
        assert "Rollout finished" in said, said
        print("4. what was trained is played")

        untrained(folder / "untrained")
        said = evaluated(folder, Path(bin_) / "lerobot-eval", "--eval.n_episodes=2", "--eval.batch_size=2")
        assert len(said["per_task"][0]["metrics"]["successes"]) == 2, said
        one = ["--eval.n_episodes=1", "--eval.batch_size=1", "--policy.save_predicted_video=true"]
        evaluated(folder, Path(bin_) / "lerobot-eval", *one, "--policy.replan_every=7")
        imagined, real = (num_frames(folder / "eval", name) for name in ("pred_episode_0", "eval_episode_0"))
        assert real <= imagined + 1 <= real + 7 * 4, f"imagined {imagined} frames, real {real}: to a chunk the same"
        print("5. LeRobot's own environments")


if __name__ == "__main__":
    main(*sys.argv[1:])
