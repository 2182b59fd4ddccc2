"""Small made-up episodes, the same in every data test."""

import numpy as np
import pytest

from xwam.data.episodes import Episode
from xwam.records import Camera
from xwam.robot.layout import Layout, two_arm_layout

SIZE = 32


def _pose(z: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = [0.1, -0.2, z]
    return pose


@pytest.fixture(scope="session")
def layout() -> Layout:
    return two_arm_layout("toy", single_arm=True)


def toy_cameras() -> tuple[Camera, ...]:
    intrinsics = np.array([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]])
    return (
        Camera(name="front", width=SIZE, height=SIZE, intrinsics=intrinsics, base_from_camera=_pose(1.0), near_m=0.2),
        Camera(name="wrist", width=SIZE, height=SIZE, intrinsics=intrinsics, hand_from_camera=_pose(0.1), far_m=4.0),
    )


@pytest.fixture(scope="session")
def cameras() -> tuple[Camera, ...]:
    return toy_cameras()


def make_episode(number: int, length: int = 24) -> Episode:
    random = np.random.default_rng(number)
    steps = np.arange(length)
    state = np.zeros((length, 16))
    state[:, :3] = 0.1 * np.sin(steps[:, None] / 5 + np.arange(3) + number)
    state[:, 3] = 1.0
    state[:, 7] = steps % 2
    action = np.zeros((length, 14))
    action[:, :3] = random.uniform(-0.04, 0.04, (length, 3))
    action[:, 6] = np.where(steps > length / 2, 1.0, -1.0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    bar = (columns[None] // 4 == (steps[:, None, None] // 2 + number) % 8) * 160.0
    video = np.stack([bar + 40, rows[None] * 4 + 0 * bar, np.full_like(bar, 30 * number % 200)], axis=-1)
    depth = (0.5 + rows[None] / SIZE + 0.01 * steps[:, None, None] + 0 * columns).astype(np.float32)
    depth[:, :2] = 0.0
    return Episode(
        instruction=f"push button {number % 2}",
        task="push" if number % 2 else "press",
        seed=100 + number,
        success=True,
        state=state,
        action=action,
        video={"front": video.astype(np.uint8), "wrist": video[:, :, ::-1].astype(np.uint8)},
        depth={"front": depth, "wrist": depth + np.float32(0.2) * (depth > 0)},
        executed_action=action + 0.001,
    )
