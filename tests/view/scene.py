"""A small world whose geometry is known exactly: a table, boxes and a moving hand, ray-cast into three cameras."""

from dataclasses import replace

import numpy as np

from xwam.records import Camera, Prediction
from xwam.robot.layout import Layout, two_arm_layout

LAYOUT: Layout = two_arm_layout("scene", single_arm=True)
TABLE_M = 0.0
# centre, half size, colour; in the base frame
BOXES = [
    ((0.60, 0.00, -0.02), (0.40, 0.45, 0.02), (196, 164, 124)),
    ((0.70, -0.18, 0.05), (0.05, 0.05, 0.05), (190, 60, 50)),
    ((0.62, 0.20, 0.04), (0.07, 0.04, 0.04), (60, 110, 180)),
    ((0.82, 0.06, 0.08), (0.03, 0.03, 0.08), (70, 150, 90)),
]
# in the hand's frame (hand z points down to the table)
HAND_BOXES = [
    ((0.0, 0.0, -0.10), (0.035, 0.045, 0.06), (70, 70, 78)),
    ((0.0, -0.04, 0.0), (0.012, 0.008, 0.045), (235, 190, 60)),
    ((0.0, 0.04, 0.0), (0.012, 0.008, 0.045), (235, 190, 60)),
]
DOWN = np.diag([1.0, -1.0, -1.0])  # base_from_hand rotation: a half turn about x; quaternion (0, 1, 0, 0)


def looking_at(eye, target) -> np.ndarray:
    """base_from_camera of a camera at ``eye`` that sees ``target`` in its middle, image down = base down."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def pinhole(size: int, field_of_view_deg: float = 45.0) -> np.ndarray:
    focal = size / 2 / np.tan(np.radians(field_of_view_deg) / 2)
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])


def cameras(size: int = 64) -> tuple[Camera, ...]:
    hand_from_camera = np.eye(4)
    hand_from_camera[:3, 3] = [-0.09, 0.0, -0.06]
    common = {"width": size, "height": size, "near_m": 0.05, "far_m": 4.0}
    sides = {"left": (1.35, 0.75, 0.65), "right": (1.35, -0.75, 0.65)}
    static = [
        Camera(name=name, intrinsics=pinhole(size), base_from_camera=looking_at(eye, (0.65, 0, 0.1)), **common)
        for name, eye in sides.items()
    ]
    wrist = Camera(name="wrist", intrinsics=pinhole(size, 75), hand_from_camera=hand_from_camera, **common)
    return (*static, wrist)


def states(num_steps: int = 9) -> np.ndarray:
    """The left hand sinks in a bow towards the red box; the right arm is unused."""
    share = np.linspace(0, 1, num_steps)
    state = np.zeros((num_steps, LAYOUT.state_width), dtype=np.float32)
    state[:, 0] = 0.52 + 0.18 * share
    state[:, 1] = 0.12 - 0.30 * share + 0.05 * np.sin(np.pi * share)
    state[:, 2] = 0.34 - 0.16 * share
    state[:, 4] = 1.0  # quaternion (0, 1, 0, 0)
    state[:, 7] = 1 - share
    return state


def _hit_box(origin, direction, centre, half):
    """Distance along each ray to an axis-aligned box (inf: missed) and the axis of the face that was hit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low = (np.subtract(centre, half) - origin) / direction
        high = (np.add(centre, half) - origin) / direction
    near, far = np.minimum(low, high), np.maximum(low, high)
    enter, leave = near.max(axis=-1), far.min(axis=-1)
    return np.where((enter <= leave) & (enter > 1e-6), enter, np.inf), near.argmax(axis=-1)


def ray_cast(base_from_camera, intrinsics, size, hand_position):
    """RGB and metric depth (along the camera's axis; 0 where nothing is hit) of the world with the hand there."""
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(intrinsics).T
    direction, origin = rays @ base_from_camera[:3, :3].T, base_from_camera[:3, 3]
    depth = np.full((size, size), np.inf)
    image = np.full((size, size, 3), 245.0)
    for boxes, turn, offset in ((BOXES, np.eye(3), np.zeros(3)), (HAND_BOXES, DOWN, hand_position)):
        local_origin, local_direction = (origin - offset) @ turn, direction @ turn
        for centre, half, colour in boxes:
            hit, face = _hit_box(local_origin, local_direction, centre, half)
            closer = hit < depth
            shade = np.array([0.72, 0.86, 1.0])[face][..., None]
            place = local_origin + np.where(np.isfinite(hit), hit, 0)[..., None] * local_direction
            checks = 0.93 + 0.07 * (np.floor(place[..., :2] / 0.05).sum(axis=-1, keepdims=True) % 2)
            depth = np.where(closer, hit, depth)
            image = np.where(closer[..., None], np.array(colour) * shade * checks, image)
    return image.round().astype(np.uint8), np.where(np.isfinite(depth), depth, 0).astype(np.float32)


def make_real(num_steps: int = 9, size: int = 64) -> Prediction:
    """What really happens: exact images and depth."""
    views, state = cameras(size), states(num_steps)
    frames = []
    for camera in views:
        for step in range(num_steps):
            base_from_hand = np.eye(4)
            base_from_hand[:3, :3], base_from_hand[:3, 3] = DOWN, state[step, :3]
            pose = camera.base_from_camera
            pose = base_from_hand @ camera.hand_from_camera if pose is None else pose
            frames.append(ray_cast(pose, camera.intrinsics, size, state[step, :3]))
    shape = (len(views), num_steps)
    num_actions = 4 * (num_steps - 1)
    return Prediction(
        action=np.zeros((num_actions, LAYOUT.action_width), dtype=np.float32),
        state=state,
        video=np.stack([image for image, _ in frames]).reshape(*shape, size, size, 3),
        depth=np.stack([depth for _, depth in frames]).reshape(*shape, size, size),
        cameras=views,
        instruction="push the red box",
        frame_hz=5.0,
        action_hz=20.0,
        seed=7,
        seconds={"encode": 0.06, "actions": 0.41, "world": 1.9, "decode": 0.95},
    )


def make_imagined(real: Prediction, seed: int = 0) -> Prediction:
    """The same, as a decent model would imagine it: drifting, a little blurred and noisy, worse with time."""
    generator = np.random.default_rng(seed)
    num_steps = len(real.state)
    growing = np.linspace(0, 1, num_steps, dtype=np.float32)
    state = real.state.copy()
    state[:, 1] += 0.03 * growing**2
    state[:, 2] += 0.015 * growing
    video = real.video.astype(np.float32)
    blurred = (video + np.roll(video, 1, axis=2) + np.roll(video, 1, axis=3) + np.roll(video, -1, axis=3)) / 4
    video = video + growing[:, None, None, None] * (blurred - video)
    video += 6 * growing[:, None, None, None] * generator.standard_normal(video.shape, dtype=np.float32)
    noise = 1 + 0.01 * growing[:, None, None] * generator.standard_normal(real.depth.shape, dtype=np.float32)
    action = real.action.copy()
    action[:, 1] = 0.003
    return replace(
        real,
        state=state,
        action=action,
        video=video.clip(0, 255).round().astype(np.uint8),
        depth=(real.depth * noise).astype(np.float32),
    )
