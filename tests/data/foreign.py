"""A data set as other people write theirs: millimetres, quaternions xyzw, absolute targets, a gripper from 0 to 100."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial.transform import Rotation

from xwam.data.episodes import Episode
from xwam.data.lerobot import DatasetWriter
from xwam.records import Camera
from xwam.robot.layout import Layout, Part
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig

SIZE, STEPS, EPISODES, FPS = 32, 36, 4, 20
NAMES = {"observation.state": ["x", "y", "z", "qx", "qy", "qz", "qw", "grip"]}

ARM = RobotConfig(
    name="their_arm",
    action_hz=float(FPS),
    state=(
        PartSource(what="position", key="observation.state", unit="mm"),
        PartSource(what="rotation", key="observation.state", start=3, form="quat_xyzw"),
        PartSource(what="gripper", key="observation.state", start=7, open=100.0),
    ),
    action=(
        PartSource(what="position", key="action", unit="mm"),
        PartSource(what="rotation", key="action", start=3, form="quat_xyzw"),
        PartSource(what="gripper", key="action", start=7, closed=1.0, open=0.0),
    ),
    cameras=(
        CameraSource(name="front", key="observation.images.cam_high", near_m=0.2, far_m=3.0),
        CameraSource(name="wrist", key="observation.images.cam_wrist", near_m=0.2, far_m=3.0),
    ),
)


def path_of(number: int, steps: int = STEPS) -> tuple[np.ndarray, Rotation, np.ndarray]:
    """Positions (m), rotations and openings of an episode, one more than its steps."""
    rng = np.random.default_rng(number)
    time = np.arange(steps + 1)[:, None] / FPS
    position = [0.4, 0.0, 0.3] + 0.1 * np.sin(rng.uniform(2, 4, 3) * time + rng.uniform(0, 6, 3))
    turns = rng.uniform(0.3, 0.6, 3) * np.sin(rng.uniform(2, 4, 3) * time + rng.uniform(0, 6, 3))
    home = Rotation.from_euler("xyz", [0.5, -0.3, 0.8])
    opening = np.clip(0.5 + 0.7 * np.sin(3 * time[:, 0] + number), 0, 1)
    return position, Rotation.from_rotvec(turns) * home, opening


def written(number: int, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """States and absolute targets as this robot writes them."""
    position, turn, opening = path_of(number, steps)
    quat = turn.as_quat(canonical=True)
    rows = np.concatenate([1000 * position, quat, 100 * opening[:, None]], axis=1)
    target = rows[1:].copy()
    target[:, 7] = 1 - opening[1:]
    return rows[:-1], target


def pictures(number: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    """A camera that stands still before a pattern and sees a small hand; one on the hand, whose pattern moves."""
    position, _, _ = path_of(number, steps)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    front = np.broadcast_to(100 + 60 * np.sin(rows / 3) * np.cos(columns / 5), (steps, SIZE, SIZE)).copy()
    wrist = np.zeros((steps, SIZE, SIZE))
    for step, (x, y, _) in enumerate(position[:steps]):
        top, left = int(10 + 60 * (x - 0.3)), int(10 + 60 * (y + 0.1))
        front[step, top : top + 4, left : left + 4] = 250
        wrist[step] = 120 + 90 * np.sin(rows / 4 + 60 * x) * np.sin(columns / 4 + 60 * y)
    tint = {"cam_high": (front, [1.0, 0.8, 0.6]), "cam_wrist": (wrist, [0.5, 0.7, 1.0])}
    return {name: (grey[..., None] * colour).clip(0, 255).astype(np.uint8) for name, (grey, colour) in tint.items()}


def write_foreign(root: Path, *, episodes: int = EPISODES, depth: bool = False, steps: int = STEPS) -> Path:
    """Write it with our writer, then take away what only we write."""
    part = {"kind": "joint_position", "unit": "1", "frame": "none", "scaling": "identity"}
    layout = Layout(name="raw", state=(Part(name="raw", size=8, **part),), action=(Part(name="raw", size=8, **part),))
    cameras = [Camera(name=name, width=SIZE, height=SIZE) for name in ("cam_high", "cam_wrist")]
    writer = DatasetWriter(root, layout=layout, cameras=cameras, action_hz=float(FPS), robot_type="theirs")
    for number in range(episodes):
        state, action = written(number, steps)
        metres = np.full((steps, SIZE, SIZE), 1.0, np.float32) + np.linspace(0, 1, SIZE, dtype=np.float32)
        writer.write(
            Episode(
                instruction=f"pick up cup {number % 2}", task="cup", seed=number, success=True, state=state,
                action=action, video=pictures(number, steps), depth={"cam_high": metres} if depth else {},
            )
        )  # fmt: skip
    writer.finish()
    (root / "meta" / "layout.json").unlink()
    return root


def change_columns(root: Path, change: Callable[[int, dict[str, np.ndarray]], None]) -> None:
    """Rewrite the numbers of every episode in place; ``change`` gets the episode and its columns."""
    for number, path in enumerate(sorted((root / "data").rglob("*.parquet"))):
        table = pq.read_table(path)
        columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
        change(number, columns)
        rows = {}
        for field in table.schema:
            values = columns[field.name]
            rows[field.name] = pa.array(values.tolist(), field.type)
        pq.write_table(pa.table(rows, schema=table.schema), path)


def video_of(root: Path, camera: str, number: int) -> Path:
    return root / f"videos/observation.images.{camera}/chunk-000/file-{number:03d}.mp4"


def copy_of(root: Path, target: Path) -> Path:
    shutil.copytree(root, target)
    return target
