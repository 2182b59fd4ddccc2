"""Another robot through a robot.json: robosuite's Panda, two other cameras, rotation in the actions.

Records smooth commands in robosuite's own numbers (xyzw, commands in [-1, 1], its own cameras), explains them in a
robot.json, checks them, trains the debug preset on them and turns its answer back into robosuite's commands::

    make robosuite
    MUJOCO_GL=osmesa PYOPENGL_PLATFORM=osmesa python benchmarks/other_robot.py runs/panda
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from xwam.check.data import check_data
from xwam.data.episodes import Episode
from xwam.data.lerobot import DatasetWriter, open_lerobot
from xwam.policy import load_policy
from xwam.records import Camera, Observation
from xwam.robot.columns import follow, write_action
from xwam.robot.layout import Layout, Part
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig, load_robot, save_robot
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline
from xwam.train.vae_recipe import ClipShape, VaeTraining

SIZE, STEPS, EPISODES = 64, 60, 4
CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
ROBOT = RobotConfig(
    name="robosuite_panda",
    action_hz=20.0,
    hand_turn=((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),  # the hand points down: half a turn from w = 1
    state=(
        PartSource(what="position", key="observation.state"),
        PartSource(what="rotation", key="observation.state", start=3, form="quat_xyzw"),
        PartSource(what="gripper", key="observation.state", start=7, open=0.04),
    ),
    action=(
        PartSource(what="position", key="action", reference="delta", scale=0.05),
        PartSource(what="rotation", key="action", start=3, form="axis_angle", reference="delta", scale=0.5),
        PartSource(what="gripper", key="action", start=6, closed=1.0, open=-1.0),
    ),
    cameras=tuple(CameraSource(name=name, key=f"observation.images.{key}") for name, key in CAMERAS.items()),
)
VAE = VaeTraining(
    shapes=(ClipShape(32, 5, 4, 1),), num_steps=20, learning_rate=2e-3, num_warmup_steps=5, kl_weight=1e-4,
    frame_stride=4, max_gradient_norm=1.0, ema_decay=0.9, seed=0, save_every=100,
)  # fmt: skip


def make_env() -> Any:
    """robosuite's own environment with its own controller."""
    import robosuite

    return robosuite.make(
        "Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=True, use_camera_obs=True, control_freq=20,
        camera_names=list(CAMERAS.values()), camera_heights=SIZE, camera_widths=SIZE, horizon=10 * STEPS,
    )  # fmt: skip


def commands(number: int) -> Float[np.ndarray, "N 7"]:
    """An episode's smooth commands, in shares of the largest."""
    rng = np.random.default_rng(number)
    speed, phase = rng.uniform(1, 3, 6), rng.uniform(0, 6, 6)
    steps = np.arange(STEPS)[:, None]
    moves = np.sin(speed * steps / 20 + phase) * [0.4, 0.4, 0.3, 0.15, 0.15, 0.3]
    return np.concatenate([moves, np.where((steps // 15 + number) % 2, 1.0, -1.0)], axis=1)


def record(root: Path) -> None:
    """Smooth commands, as robosuite writes them."""
    env = make_env()
    rest: dict[str, Any] = {"kind": "joint_position", "unit": "1", "frame": "none", "scaling": "identity"}
    layout = Layout(name="raw", state=(Part(name="raw", size=8, **rest),), action=(Part(name="raw", size=7, **rest),))
    cameras = [Camera(name=key, width=SIZE, height=SIZE) for key in CAMERAS.values()]
    writer = DatasetWriter(root, layout=layout, cameras=cameras, action_hz=20.0, robot_type="panda")
    for number in range(EPISODES):
        seen, rows = env.reset(), {"state": [], "action": [], **{key: [] for key in CAMERAS.values()}}
        for command in commands(number):
            rows["state"].append(
                [*seen["robot0_eef_pos"], *seen["robot0_eef_quat_site"], seen["robot0_gripper_qpos"][0]]
            )
            rows["action"].append(command)
            for key in CAMERAS.values():
                rows[key].append(seen[f"{key}_image"][::-1])
            seen, *_ = env.step(command)
        video = {key: np.array(rows[key]) for key in CAMERAS.values()}
        words = {"instruction": "wave the hand", "task": "wave", "seed": number, "success": True}
        writer.write(Episode(state=np.array(rows["state"]), action=np.array(rows["action"]), video=video, **words))
    writer.finish()
    (root / "meta" / "layout.json").unlink()


def main(out: Path) -> None:
    data, file = out / "data", out / "robot.json"
    if not (data / "meta" / "info.json").is_file():
        record(data)
    save_robot(file, ROBOT)
    for finding in check_data(data, ROBOT):
        print(f"{finding.level:<6} {finding.check}: {finding.text}")
    changes = {"num_steps": 10, "validate_every": 0}
    last = run_pipeline("debug", data, out / "run", changes, vae=VAE, sources=Sources(robot=(str(file),)))
    episodes, robot, policy = open_lerobot(data, robot=ROBOT), load_robot(last / "robot.json"), load_policy(last)
    films = {name: episodes.frames(0, name, np.array([10])) for name in robot.view_names}
    images = {name: film[0] for name, film in films.items() if film is not None}
    state = episodes.info(0).state[10]
    observation = Observation(images=images, state=state, instruction="wave the hand")
    chunk = next(policy.predict(observation, actions_only=True)).action
    commands = write_action(robot, chunk, follow(robot, state, chunk))["action"]
    print(f"{last}: {len(commands)} commands for robosuite, between {commands.min():.2f} and {commands.max():.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
