"""Rendered frames of a simulator against its own ray casting: the whole way from pixels to the base frame."""

import numpy as np
import pytest

from xwam.records import Camera, Prediction
from xwam.view.points import base_points, camera_poses

pytest.importorskip("metaworld", reason="pip install 'xwam[sim]'")
from xwam.sim.metaworld import make_metaworld
from xwam.sim.render import load_mujoco

SIZE = 128


def test_fused_points_lie_where_rays_hit():
    env = make_metaworld("button-press-topdown-v3", width_px=SIZE, height_px=SIZE)
    env.reset(3)
    for _ in range(6):
        env.step(env.expert_action())
    seen = env.observe()
    cameras = tuple(env.cameras.values())
    world = Prediction(
        action=np.zeros((1, env.layout.action_width), dtype=np.float32),
        state=seen.state[None],
        video=np.stack([seen.images[c.name] for c in cameras])[:, None],
        depth=np.stack([seen.depth[c.name] for c in cameras])[:, None],
        cameras=cameras,
        instruction=seen.instruction,
        frame_hz=5.0,
        action_hz=20.0,
        seed=0,
        seconds={},
    )
    points = base_points(world, env.layout)[:, 0]
    for view, camera in enumerate(cameras):
        errors = distances_to_hits(env, camera, points[view])
        assert len(errors) > 500, camera.name
        assert np.median(errors) < 5e-5, camera.name
        assert np.mean(errors < 1e-3) > 0.98, f"{camera.name}: rays and pixels may differ at edges, nowhere else"
    env.close()


def distances_to_hits(env, camera: Camera, points: np.ndarray) -> np.ndarray:
    """How far (metres) every fourth pixel's point lies from where MuJoCo's ray through that pixel ends."""
    mujoco, hit = load_mujoco(), np.zeros(1, np.int32)
    shown = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # groups of shapes in the picture
    eye = camera_poses(camera, env.state(), env.layout)[:3, 3]
    errors = []
    for point in points[1::4, 1::4].reshape(-1, 3):
        if np.isfinite(point).all():
            ray = (point - eye) / np.linalg.norm(point - eye)
            distance = mujoco.mj_ray(env._raw.model, env._raw.data, eye, ray, shown, 1, -1, hit)
            errors.append(np.linalg.norm(eye + distance * ray - point))
    return np.array(errors)
