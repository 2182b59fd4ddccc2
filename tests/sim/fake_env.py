"""A simulator in numpy alone: a hand above the plane z = 0 must reach a disc. Its pictures and depth are exact.

Every point of the plane has its own colour, so a picture says where it was taken from; the goal is a white disc.
"""

import numpy as np

from xwam.records import Camera, Observation
from xwam.robot.actions import base_from_hand
from xwam.robot.layout import two_arm_layout
from xwam.sim.views import View, look_at

LAYOUT = two_arm_layout("fake", single_arm=True)
MOVE = LAYOUT.action_slice("left_position")
QUAT = np.array([0.8, 0.0, 0.6, 0.0])  # the hand leans forward
GOAL_RADIUS_M, REACHED_M = 0.08, 0.02
VIEWS = {
    "left": View("", (-0.8, 0.0, 0.6), (0.0, 0.0, 0.0), (0, 0, 1), 60, 0.1, 3.0),
    "right": View("", (0.6, -0.7, 0.5), (0.0, 0.0, 0.0), (0, 0, 1), 60, 0.1, 3.0),
    "wrist": View("", (0.0, 0.0, 0.1), (0.3, 0.0, -0.1), (0, 0, 1), 80, 0.02, 3.0, hand="left"),
}


def make_fake(task: str = "fake-reach", *, width_px: int = 32, height_px: int = 32) -> "FakeEnv":
    return FakeEnv(task, width_px=width_px, height_px=height_px)


def make_fake_elsewhere(task: str = "fake-reach", *, width_px: int = 32, height_px: int = 32) -> "FakeEnv":
    """The same world through two cameras that no preset knows together."""
    env = FakeEnv(task, width_px=width_px, height_px=height_px)
    views = {"front": VIEWS["left"], "wrist": VIEWS["wrist"]}
    env.cameras = {name: _camera(name, view, width_px, height_px) for name, view in views.items()}
    return env


class FakeEnv:
    """The expert of ``fake-reach`` always succeeds, of ``fake-fragile`` not if ``seed % 3 == 1``, of others never."""

    layout = LAYOUT
    action_hz = 20.0
    max_steps = 60
    max_delta_m = 0.04
    max_turn_rad = 0.0
    workspaces = ((np.array([-0.3, -0.3, 0.05]), np.array([0.3, 0.3, 0.4])),)

    def __init__(self, task: str, *, width_px: int, height_px: int) -> None:
        self.task = task
        self.instruction = "reach the white disc"
        self.success = False
        self.cameras = {name: _camera(name, view, width_px, height_px) for name, view in VIEWS.items()}

    def reset(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.position = np.array([0.0, 0.0, 0.3])
        self.opening = 1.0
        self.goal = np.array([*rng.uniform(-0.3, 0.3, 2), 0.1])
        self.instruction = ("reach the white disc", "go to the disc")[rng.integers(2)]
        self.success = False

    def step(self, action: np.ndarray) -> bool:
        self.layout.check_action(action)
        self.position = self.position + np.clip(action[MOVE], -self.max_delta_m, self.max_delta_m)
        self.success = self.success or bool(np.linalg.norm(self.goal - self.position) < REACHED_M)
        return self.success

    def state(self) -> np.ndarray:
        state = np.zeros(self.layout.state_width, np.float32)
        state[:8] = [*self.position, *QUAT, self.opening]
        return state

    def observe(self) -> Observation:
        state = self.state()
        images, depth = {}, {}
        for name, camera in self.cameras.items():
            pose = camera.base_from_camera
            if pose is None:
                pose = base_from_hand(self.layout, state) @ camera.hand_from_camera
            images[name], depth[name] = self._picture(camera, pose)
        return Observation(
            images=images, depth=depth, state=state, instruction=self.instruction, cameras=self.cameras
        )  # fmt: skip

    def expert_action(self) -> np.ndarray:
        action = np.zeros(self.layout.action_width, np.float32)
        if self.task == "fake-reach" or (self.task == "fake-fragile" and self.seed % 3 != 1):
            action[MOVE] = np.clip(self.goal - self.position, -self.max_delta_m, self.max_delta_m)
        return action

    def close(self) -> None:
        pass

    def _picture(self, camera: Camera, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v, u = np.mgrid[: camera.height, : camera.width] + 0.5
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.intrinsics).T  # z = 1 in the camera
        directions = rays @ pose[:3, :3].T
        with np.errstate(divide="ignore"):
            depth = -pose[2, 3] / directions[..., 2]  # along the camera's z, as the rays have z = 1
        depth = np.where((depth > 0) & (depth <= camera.far_m), depth, 0)
        point = pose[:3, 3] + depth[..., None] * directions
        colour = np.stack([point[..., 0], point[..., 1], np.sin(20 * point[..., 0])], -1) * 100 + 128
        colour[np.linalg.norm(point[..., :2] - self.goal[:2], axis=-1) < GOAL_RADIUS_M] = 255
        colour[depth == 0] = 0
        return colour.clip(0, 255).astype(np.uint8), depth.astype(np.float32)


def _camera(name: str, view: View, width_px: int, height_px: int) -> Camera:
    focal = 0.5 * height_px / np.tan(np.deg2rad(view.fovy_degrees) / 2)
    return Camera(
        name=name,
        width=width_px,
        height=height_px,
        intrinsics=np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1.0]]),
        near_m=view.near_m,
        far_m=view.far_m,
        **{"base_from_camera" if view.hand is None else "hand_from_camera": look_at(view)},
    )
