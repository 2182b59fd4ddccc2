"""Small records that fit the debug preset, and the shortest training, for tests of every room."""

import numpy as np

from xwam.config import Config
from xwam.records import Camera, Clip, Observation
from xwam.robot.layout import two_arm_layout
from xwam.robot.normalizer import Normalizer
from xwam.train.vae_recipe import ClipShape, VaeTraining

SHORT_VAE = VaeTraining(
    shapes=(ClipShape(32, 5, 2, 1),), num_steps=2, learning_rate=1e-3, num_warmup_steps=1, kl_weight=1e-4,
    frame_stride=4, max_gradient_norm=1.0, ema_decay=0.9, seed=0, save_every=10,
)  # fmt: skip


def make_normalizer() -> Normalizer:
    layout = two_arm_layout("example", single_arm=True)
    bounds = {"state_q01": -1, "state_q99": 1, "action_q01": -0.05, "action_q99": 0.05}
    widths = {"state": layout.state_width, "action": layout.action_width}
    return Normalizer(layout=layout, **{k: np.full(widths[k.split("_")[0]], float(v)) for k, v in bounds.items()})


def make_cameras(config: Config) -> tuple[Camera, ...]:
    width, height = config.clip.width_px, config.clip.height_px
    intrinsics = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    pose = np.eye(4)
    pose[2, 3] = -1.0
    poses = ["base_from_camera"] * (len(config.view_names) - 1) + ["hand_from_camera"]
    return tuple(
        Camera(name=n, width=width, height=height, intrinsics=intrinsics, near_m=0.2, far_m=2.5, **{p: pose})
        for n, p in zip(config.view_names, poses, strict=True)
    )


def make_state(steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    state = np.zeros((steps, 16), np.float32)
    state[:, :3] = rng.uniform(-0.5, 0.5, (steps, 3))
    quat = rng.normal(size=(steps, 4))
    quat *= np.sign(quat[:, :1]) / np.linalg.norm(quat, axis=1, keepdims=True)
    state[:, 3:7] = quat
    state[:, 7] = rng.uniform(0, 1, steps)
    return state


def make_observation(config: Config, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    shape = (config.clip.height_px, config.clip.width_px, 3)
    return Observation(
        images={name: rng.integers(0, 256, shape, dtype=np.uint8) for name in config.view_names},
        state=make_state(1, seed)[0],
        instruction="press the button",
        cameras={c.name: c for c in make_cameras(config)},
    )


def make_clip(config: Config, seed: int = 0, num_real_actions: int | None = None) -> Clip:
    rng = np.random.default_rng(seed)
    clip = config.clip
    views, frames, steps = len(config.view_names), clip.num_frames, clip.action_horizon
    real = steps if num_real_actions is None else num_real_actions
    action = np.zeros((steps, 14), np.float32)
    action[:, :7] = rng.uniform(-0.05, 0.05, (steps, 7))
    frame_is_real = np.arange(frames) * clip.actions_per_frame <= real
    return Clip(
        video=rng.integers(0, 256, (views, frames, clip.height_px, clip.width_px, 3), dtype=np.uint8),
        depth=rng.uniform(0.3, 2.0, (views, frames, clip.height_px, clip.width_px)).astype(np.float32),
        state=make_state(frames, seed),
        action=action,
        video_mask=np.tile(frame_is_real, (views, 1)),
        depth_mask=np.tile(frame_is_real, (views, 1)),
        state_mask=frame_is_real,
        action_mask=np.arange(steps) < real,
        instruction="press the button",
        cameras=make_cameras(config),
    )
