"""HDF5 files as ALOHA, LIBERO, robomimic and RoboTwin write them: their groups, names, types and quirks.

The same arm as in ``foreign.py`` moves in all of them, so what must come out is known.
"""

import io
import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data.foreign import SIZE, STEPS, path_of, pictures
from xwam.robot.robot_json import RobotConfig, load_robot

ROBOTS = Path(__file__).parents[2] / "robots"
EPISODES = 3
DOWN = Rotation.from_matrix(np.diag([1.0, -1, -1]))  # robosuite's hand at rest looks down
MOST_M, MOST_RAD = 0.05, 0.5  # what a command of 1 means to robosuite's arm
FINGER_M = 0.04
WORDS = ["pick up the cup", "lift the cup", "take the cup"]


def robot(name: str) -> RobotConfig:
    return load_robot(ROBOTS / f"{name}.json")


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def joints(number: int, steps: int = STEPS) -> np.ndarray:
    """Fourteen numbers of two arms: six joints and an opening each, one row more than there are steps."""
    time = np.arange(steps + 1)[:, None] / 50
    rng = np.random.default_rng(100 + number)
    rows = 0.8 * np.sin(rng.uniform(2, 4, 14) * time + rng.uniform(0, 6, 14))
    rows[:, [6, 13]] = 0.5 + 0.5 * np.sin(4 * time + rng.uniform(0, 6, 2))
    return rows


def write_aloha(root: Path, *, compressed: bool = False, padded: bool = True, words: bool = True) -> Path:
    """episode_<n>.hdf5, one file per episode; ``compressed``: JPEGs padded to one length, or of any length."""
    root.mkdir(parents=True)
    for number in range(EPISODES):
        rows, films = joints(number), pictures(number)
        with h5py.File(root / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"], file.attrs["compress"] = False, compressed
            if words:
                file.attrs["language_instruction"] = f"fold towel {number}"
            file["observations/qpos"], file["action"] = rows[:-1], rows[1:]
            for name, film in (
                ("cam_high", "cam_high"),
                ("cam_left_wrist", "cam_wrist"),
                ("cam_right_wrist", "cam_wrist"),
            ):
                frames = films[film] if name != "cam_right_wrist" else films[film][:, ::-1]
                if not compressed:
                    file.create_dataset(f"observations/images/{name}", data=frames, chunks=(1, SIZE, SIZE, 3))
                    continue
                files = [np.frombuffer(jpeg(frame), np.uint8) for frame in frames]
                if not padded:
                    kind = h5py.vlen_dtype(np.uint8)
                    stored = file.create_dataset(f"observations/images/{name}", (len(files),), dtype=kind)
                    for row, content in enumerate(files):
                        stored[row] = content
                    continue
                block = np.zeros((len(files), max(map(len, files))), np.uint8)
                for row, content in zip(block, files, strict=True):
                    row[: len(content)] = content
                file[f"observations/images/{name}"] = block
    return root


def commands(number: int, steps: int = STEPS) -> np.ndarray:
    """What robosuite's arm is told on the way: changes of position and rotation in shares, gripper 1 to close."""
    position, turn, opening = path_of(number, steps)
    moves = np.diff(position, axis=0) / MOST_M
    turns = (turn[1:] * turn[:-1].inv()).as_rotvec() / MOST_RAD
    return np.concatenate([moves, turns, 1 - 2 * opening[1:, None]], axis=1)


def write_robomimic(path: Path, *, is_libero: bool = False, control_freq: int = 20, episodes: int = EPISODES) -> Path:
    """One file with all episodes; ``is_libero``: its names, pictures bottom up, and what was seen AFTER each action."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {"control_freq": control_freq}})
        if is_libero:
            data.attrs["problem_info"] = json.dumps({"language_instruction": '"open the drawer"'})
            data.attrs["macros_image_convention"] = "opengl"
        for number in range(episodes):
            position, turn, opening = path_of(number)
            films, told = pictures(number), commands(number)
            seen = slice(1, STEPS) if is_libero else slice(0, STEPS)  # frame 0 is before the first action
            hand = turn * DOWN.inv()
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = len(position[seen])
            demo["actions"] = told[: len(position[seen])]
            fingers = FINGER_M * np.stack([opening, -opening], axis=1)[seen]
            obs = demo.create_group("obs")
            if is_libero:
                obs["ee_pos"], obs["ee_ori"] = position[seen], hand[seen].as_rotvec()
                obs["gripper_states"] = fingers
                obs["agentview_rgb"] = films["cam_high"][seen][:, ::-1]
                obs["eye_in_hand_rgb"] = films["cam_wrist"][seen][:, ::-1]
            else:
                obs["robot0_eef_pos"], obs["robot0_eef_quat"] = position[seen], hand[seen].as_quat()
                obs["robot0_gripper_qpos"] = fingers
                obs["agentview_image"], obs["robot0_eye_in_hand_image"] = (
                    films["cam_high"][seen],
                    films["cam_wrist"][seen],
                )
    return path


def write_robotwin(root: Path, *, depth: bool = True) -> Path:
    """data/episode<n>.hdf5, instructions/episode<n>.json; no actions; JPEGs that took RGB for BGR."""
    for folder in ("data", "instructions"):
        (root / folder).mkdir(parents=True)
    for number in range(EPISODES):
        words = {"seen": WORDS, "unseen": ["never used"]}
        (root / f"instructions/episode{number}.json").write_text(json.dumps(words))
        films = pictures(number)
        with h5py.File(root / f"data/episode{number}.hdf5", "w") as file:
            for arm, seed in (("left", number), ("right", number + 10)):
                position, turn, opening = path_of(seed)
                quat = turn.as_quat(canonical=True, scalar_first=True)
                file[f"endpose/{arm}_endpose"] = np.concatenate([position, quat], axis=1)[:-1]
                file[f"endpose/{arm}_gripper"] = opening[:-1]
            for name, film in (("head", "cam_high"), ("left", "cam_wrist"), ("right", "cam_wrist")):
                frames = films[film] if name != "right" else films[film][:, ::-1]
                files = [jpeg(frame[..., ::-1]) for frame in frames]
                longest = max(map(len, files))
                file.create_dataset(f"observation/{name}_camera/rgb", data=files, dtype=f"S{longest}")
                if depth:
                    millimetres = np.full((STEPS, SIZE, SIZE), 1500.0)
                    millimetres[:, 0, 0] = 0
                    millimetres[:, 0, 1] = np.nan
                    file[f"observation/{name}_camera/depth"] = millimetres
    return root
