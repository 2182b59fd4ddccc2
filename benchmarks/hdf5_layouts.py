"""robomimic's and LIBERO's HDF5 files, written from the simulator that both come from, and read by ``robots/*.json``.

The same episodes of robosuite's Panda are written twice: as robomimic does it (what is seen before an action beside it,
pictures upright) and as LIBERO does it (what is seen after an action beside it, pictures bottom up). Read, both must
hold the same states, actions and pictures. Can the numbers alone tell that LIBERO's actions stand a row later? The last
table says (they cannot where the arm lags behind its commands by more than a step, as this one does)::

    make robosuite
    MUJOCO_GL=osmesa PYOPENGL_PLATFORM=osmesa PYTHONPATH=. python benchmarks/hdf5_layouts.py runs/hdf5
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.other_robot import EPISODES, commands, make_env
from xwam.check.data import check_data
from xwam.data.hdf5_read import open_hdf5
from xwam.robot.robot_json import RobotConfig, load_robot
from xwam.robot.rotations import matrix_from_quat, vector_from_matrix

ROBOTS = Path(__file__).parents[1] / "robots"


def record(folder: Path) -> None:
    """robomimic/image.hdf5 and libero/lift_demo.hdf5."""
    import h5py

    env = make_env()
    paths = folder / "robomimic/image.hdf5", folder / "libero/lift_demo.hdf5"
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(paths[0], "w") as robomimic, h5py.File(paths[1], "w") as libero:
        for file in (robomimic, libero):
            file.create_group("data").attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        libero["data"].attrs["problem_info"] = json.dumps({"language_instruction": "wave the hand"})
        for number in range(EPISODES):
            told, seen = commands(number), [env.reset()]
            for command in told:
                seen.append(env.step(command)[0])
            _write(robomimic.create_group(f"data/demo_{number}"), told, seen[:-1], is_libero=False)
            _write(libero.create_group(f"data/demo_{number}"), told, seen[1:], is_libero=True)


def _write(group: Any, told: np.ndarray, seen: Sequence[dict[str, np.ndarray]], *, is_libero: bool) -> None:
    names = {"agentview_image": "agentview_rgb", "robot0_eye_in_hand_image": "eye_in_hand_rgb"}
    group["actions"] = told
    rows = {key: np.stack([one[key] for one in seen]) for key in (*names, "robot0_eef_pos", "robot0_eef_quat")}
    fingers = np.stack([one["robot0_gripper_qpos"] for one in seen])
    obs = group.create_group("obs")
    if is_libero:
        obs["ee_pos"], obs["gripper_states"] = rows["robot0_eef_pos"], fingers
        obs["ee_ori"] = vector_from_matrix(matrix_from_quat(rows["robot0_eef_quat"][:, [3, 0, 1, 2]]))
        for key, name in names.items():
            obs[name] = rows[key]
        return
    obs["robot0_eef_pos"], obs["robot0_eef_quat"] = rows["robot0_eef_pos"], rows["robot0_eef_quat"]
    obs["robot0_gripper_qpos"] = fingers
    for key in names:
        obs[key] = rows[key][:, ::-1]


def main(out: Path) -> None:
    if not (out / "libero/lift_demo.hdf5").is_file():
        record(out)
    robomimic = replace(load_robot(ROBOTS / "robomimic.json"), instruction="wave the hand")
    libero = load_robot(ROBOTS / "libero.json")
    cases: tuple[tuple[str, str, RobotConfig], ...] = (
        ("robomimic", "robomimic", robomimic),
        ("libero", "libero", libero),
        ("libero, action_ahead 0", "libero", replace(libero, action_ahead=0)),
    )
    for words, name, robot in cases:
        print(f"\n{words}")
        for finding in check_data(out / name, robot):
            print(f"  {finding.level:<6} {finding.check}: {finding.text}")
    before, after = open_hdf5(out / "robomimic", robot=robomimic), open_hdf5(out / "libero", robot=libero)
    print("\nthe same episodes, read from both:")
    for number in range(EPISODES):
        one, other = before.info(number), after.info(number)
        states, actions = one.state[1:], one.action[1:]
        steps = np.arange(len(states))
        for camera in ("agentview", "wrist"):
            frames, others = before.frames(number, camera, steps + 1), after.frames(number, camera, steps)
            assert frames is not None
            assert others is not None
            assert np.array_equal(frames, others), f"pictures of {camera} differ"
        print(
            f"  episode {number}: pictures equal; states differ by {np.abs(states - other.state[:-1]).max():.1e}, "
            f"actions by {np.abs(actions - other.action).max():.1e}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
