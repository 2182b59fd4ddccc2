"""robosuite's table-top tasks with one or two Panda arms, MuJoCo physics and scripted experts (``make robosuite``).

One action lasts 50 ms. It moves the commanded pose of each hand: ``delta_position`` (metres, at most ``MAX_DELTA_M``
per axis), ``delta_rotation`` (a rotation vector, at most ``MAX_TURN_RAD`` long) and the gripper, -1 open, 1 closed.
robosuite's operational-space controller follows the commanded pose (absolute poses; stiffer than its default, so that
the hand is one action behind it instead of three). The commanded pose never runs further ahead than ``MAX_LEAD``, so
that a hand that is held back does not jump later.

The base frame is robosuite's world: the origin under the table's middle, z up. A hand's frame is that of robosuite's
grip site, turned so that a hand at rest has the axes of the base: pointing straight down is the rotation 1.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from xwam.records import Camera, Observation, Pose
from xwam.robot.actions import apply_deltas, deltas_between
from xwam.robot.layout import Kind, Layout, two_arm_layout, used_slices
from xwam.robot.rotations import (
    matrix_from_quat,
    matrix_from_vector,
    pose_matrix,
    quat_from_matrix,
    vector_from_matrix,
)
from xwam.sim.env import Workspace, check_opening, check_seed
from xwam.sim.render import Renderer, load_mujoco
from xwam.sim.robosuite_experts import EXPERTS, OPEN, Goal, Hand
from xwam.sim.views import View, camera_records, look, place_cameras

INSTALL = (
    "run `make robosuite`, or: pip install --no-deps robosuite==1.5.2 && pip install numba termcolor "
    "opencv-python-headless (its own pins are older than what works)."
)
ACTION_HZ = 20.0
MAX_STEPS = 150
SETTLING = 5  # actions before an episode begins, until everything lies still
MAX_DELTA_M = 0.02
MAX_TURN_RAD = 0.08
MAX_LEAD = (0.05, 0.3)  # metres per axis, radians
STIFFNESS = 900.0  # of the controller, per second squared; above 1,000 the joints' torques saturate
HANDS = ("left", "right")
COLLISION_GROUP = 0  # robosuite's collision shapes


class Task(NamedTuple):
    """A task of robosuite: how many arms it needs, and its wordings; the first is the plainest."""

    num_arms: int
    wordings: tuple[str, ...]


TASKS: dict[str, Task] = {
    "Lift": Task(1, ("lift the red cube", "pick up the cube", "grasp the red block and raise it")),
    "Stack": Task(1, ("stack the red cube on the green one", "put the red block on the green block")),
    "TwoArmLift": Task(2, ("lift the pot with both arms", "raise the pot by its two handles")),
}
LAYOUTS: dict[int, Layout] = {
    1: two_arm_layout("robosuite_one_arm", single_arm=True),
    2: two_arm_layout("robosuite_two_arms"),
}
WORKSPACES: dict[int, tuple[Workspace, ...]] = {
    1: ((np.array([-0.2, -0.2, 0.84]), np.array([0.15, 0.2, 1.05])),),
    2: (
        (np.array([-0.2, -0.25, 0.86]), np.array([0.2, -0.06, 1.10])),
        (np.array([-0.2, 0.06, 0.86]), np.array([0.2, 0.25, 1.10])),
    ),
}
# One arm stands at the table's far end (x < 0), two at its sides (y < 0: left, y > 0: right). The static views frame
# what lies on the table and the hands above it.
# A camera on a hand looks past its fingers, from the side that is away from the arm's foot.
VIEWS: dict[int, dict[str, View]] = {
    1: {
        "left": View("agentview", (0.62, 0.62, 1.42), (-0.04, 0.0, 0.90), (0, 0, 1), 27, 0.5, 1.6),
        "right": View("frontview", (0.62, -0.62, 1.42), (-0.04, 0.0, 0.90), (0, 0, 1), 27, 0.5, 1.6),
        "wrist": View(
            "robot0_eye_in_hand", (0.11, 0.0, 0.07), (0.03, 0.0, -0.03), (1, 0, 0), 75, 0.03, 1.0, hand="left"
        ),
    },
    2: {
        "front": View("frontview", (0.95, 0.0, 1.45), (0.0, 0.0, 0.91), (0, 0, 1), 34, 0.5, 1.8),
        "wrist": View(
            "robot0_eye_in_hand", (0.0, 0.11, 0.07), (0.0, 0.03, -0.03), (0, 1, 0), 75, 0.03, 1.0, hand="left"
        ),
        "right_wrist": View(
            "robot1_eye_in_hand", (0.0, -0.11, 0.07), (0.0, -0.03, -0.03), (0, -1, 0), 75, 0.03, 1.0, hand="right"
        ),
    },
}


def make_robosuite(task: str, *, width_px: int = 128, height_px: int = 128) -> "RoboSuite":
    """Open one task. Raises ValueError on an unknown name, ImportError with the line to install."""
    check_opening(task, TASKS, width_px, height_px)
    return RoboSuite(task, width_px=width_px, height_px=height_px)


class RoboSuite:
    """One robosuite task as an ``ExpertEnv``. Call ``reset`` first."""

    action_hz = ACTION_HZ
    max_steps = MAX_STEPS
    max_delta_m = MAX_DELTA_M
    max_turn_rad = MAX_TURN_RAD

    def __init__(self, task: str, *, width_px: int, height_px: int) -> None:
        load_mujoco()  # chooses how to draw before robosuite imports it
        self.task = task
        num_arms, self._wordings = TASKS[task]
        self.instruction = self._wordings[0]
        self.success = False
        self.layout = LAYOUTS[num_arms]
        self.workspaces = WORKSPACES[num_arms]
        self._hands = HANDS[:num_arms]
        kinds: tuple[Kind, ...] = ("delta_position", "delta_rotation", "gripper_command")
        rows = [[where for _, where in used_slices(self.layout.action, kind)] for kind in kinds]
        self._slots = list(zip(*rows, strict=True))  # how each hand moves, turns and grips
        self._raw = _open_task(task, num_arms)
        self._model, self._data = self._raw.sim.model._model, self._raw.sim.data._data
        self._sites = [robot.eef_site_id["right"] for robot in self._raw.robots]
        self._fingers = [robot._ref_gripper_joint_pos_indexes["right"] for robot in self._raw.robots]
        # At rest a hand points down up to a few degrees: the nearest right angles are its frame.
        self._site_from_hand = [np.rint(self._data.site_xmat[site].reshape(3, 3)).T for site in self._sites]
        self._views = VIEWS[num_arms]
        self._place_cameras()
        self.cameras: Mapping[str, Camera] = camera_records(self._views, width_px, height_px)
        self._renderer = Renderer(self._model, width_px=width_px, height_px=height_px, hidden_groups=(COLLISION_GROUP,))
        self._commanded: list[tuple[np.ndarray, np.ndarray]] | None = None  # of each hand: position, quaternion

    def reset(self, seed: int) -> None:
        """Place robot and objects anew, and draw one of the wordings; all from ``seed`` alone (0 or more)."""
        check_seed(seed)
        raw = self._raw
        raw.rng = raw.placement_initializer.rng = np.random.default_rng([seed, 0])
        raw.reset()
        self._commanded = [(hand.position, hand.quat) for hand in self.hands()]
        rest = np.zeros(self.layout.action_width)
        for _, _, gripper in self._slots:
            rest[gripper] = OPEN
        for _ in range(SETTLING):
            self.step(rest)
        self.success = False
        self.instruction = self._wordings[np.random.default_rng([seed, 1]).integers(len(self._wordings))]

    def step(self, action: Float[np.ndarray, " Da"]) -> bool:
        """Play one action for 50 ms; too large values are clipped to what is executed. Returns ``success``."""
        commanded = self._begun()
        self.layout.check_action(action)
        command = []
        for number, hand in enumerate(self.hands()):
            move, turn, gripper = (action[where] for where in self._slots[number])
            deltas = np.concatenate([move.clip(-MAX_DELTA_M, MAX_DELTA_M), _shortened(turn, MAX_TURN_RAD)])
            position, quat = apply_deltas(*commanded[number], deltas)
            lead = deltas_between(hand.position, hand.quat, position, quat)
            lead = np.concatenate([lead[:3].clip(-MAX_LEAD[0], MAX_LEAD[0]), _shortened(lead[3:], MAX_LEAD[1])])
            commanded[number] = apply_deltas(hand.position, hand.quat, lead)
            site = matrix_from_quat(commanded[number][1]) @ self._site_from_hand[number].T
            command += [commanded[number][0], vector_from_matrix(site), gripper.clip(-1, 1)]
        self._raw.step(np.concatenate(command))
        self.success = self.success or bool(self._raw._check_success())
        return self.success

    def observe(self) -> Observation:
        """RGB-D images, the state and the instruction. Depth is 0 (unknown) beyond a camera's ``far_m``."""
        self._begun()
        images, depth = look(self._renderer, self._data, self._views)
        return Observation(
            images=images, depth=depth, state=self.state(), instruction=self.instruction, cameras=self.cameras
        )

    def state(self) -> Float32[np.ndarray, " Ds"]:
        """What the layout says: per hand position (metres), quaternion (w >= 0) and opening (0 closed, 1 open)."""
        state = np.zeros(self.layout.state_width, dtype=np.float32)
        for name, hand in zip(self._hands, self.hands(), strict=True):
            state[self.layout.state_slice(f"{name}_position")] = hand.position
            state[self.layout.state_slice(f"{name}_rotation")] = hand.quat
            state[self.layout.state_slice(f"{name}_gripper")] = hand.opening
        return state

    def hands(self) -> list[Hand]:
        """Where each hand is now, and how far open."""
        found = []
        for site, fingers, turn in zip(self._sites, self._fingers, self._site_from_hand, strict=True):
            quat = quat_from_matrix(self._data.site_xmat[site].reshape(3, 3) @ turn)
            one, other = self._data.qpos[fingers]
            found.append(Hand(self._data.site_xpos[site].copy(), quat, float(np.clip((one - other) / 0.08, 0, 1))))
        return found

    def expert_action(self) -> Float32[np.ndarray, " Da"]:
        """What the task's scripted expert would do now (it sees the simulator's inside)."""
        commanded = self._begun()
        action = np.zeros(self.layout.action_width, dtype=np.float32)
        for number, goal in enumerate(EXPERTS[self.task](self._raw, self.hands())):
            deltas = deltas_between(*commanded[number], goal.position, _upright(goal))
            move, turn, gripper = self._slots[number]
            action[move] = deltas[:3].clip(-goal.speed_m, goal.speed_m)
            action[turn] = _shortened(deltas[3:], MAX_TURN_RAD)
            action[gripper] = goal.gripper
        return action

    def close(self) -> None:
        """Free the picture buffers."""
        self._renderer.close()
        self._raw.close()

    def _begun(self) -> list[tuple[np.ndarray, np.ndarray]]:
        if self._commanded is None:
            raise ValueError(f"task={self.task!r} has not begun: call reset(seed) first.")
        return self._commanded

    def _place_cameras(self) -> None:
        place_cameras(self._model, {name: view for name, view in self._views.items() if view.hand is None})
        for name, site, turn in zip(self._hands, self._sites, self._site_from_hand, strict=True):
            mine = {k: view for k, view in self._views.items() if view.hand == name}
            body = self._model.cam_bodyid[self._model.camera(next(iter(mine.values())).mujoco_name).id]
            base_from_body = _pose(self._data.xpos[body], self._data.xmat[body].reshape(3, 3))
            hand = _pose(self._data.site_xpos[site], self._data.site_xmat[site].reshape(3, 3) @ turn)
            place_cameras(self._model, mine, np.linalg.inv(base_from_body) @ hand)


def _pose(position: np.ndarray, rotation: np.ndarray) -> Pose:
    return pose_matrix(position, quat_from_matrix(rotation))


def _shortened(vector: Float[np.ndarray, " 3"], longest: float) -> Float[np.ndarray, " 3"]:
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-9))


def _upright(goal: Goal) -> Float[np.ndarray, " 4"]:
    return quat_from_matrix(matrix_from_vector(np.array([0.0, 0.0, goal.yaw])))


def _is_trouble(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _open_task(task: str, num_arms: int) -> Any:
    """The simulator's own environment: no renderer, a stiff controller for absolute poses, the model loaded once."""
    logging.getLogger("robosuite_logs").addFilter(_is_trouble)  # it would set a level of its own
    try:
        import robosuite  # pyright: ignore[reportMissingImports]
        from robosuite.controllers import (  # pyright: ignore[reportMissingImports]
            load_composite_controller_config,
        )
    except ImportError as error:
        raise ImportError(f"robosuite cannot be imported ({error}): {INSTALL}") from error
    controller: Any = load_composite_controller_config(robot="Panda")
    stiff = {"kp": STIFFNESS, "kp_limits": [0, STIFFNESS]}
    controller["body_parts"]["right"].update(input_type="absolute", input_ref_frame="world", **stiff)
    raw = robosuite.make(
        task, robots=["Panda"] * num_arms, controller_configs=controller, has_renderer=False, use_object_obs=False,
        has_offscreen_renderer=False, use_camera_obs=False, control_freq=ACTION_HZ, hard_reset=False, ignore_done=True,
        seed=0,
    )  # fmt: skip
    raw.reset()
    return raw
