"""Meta-World: 50 table-top tasks with a Sawyer arm, MuJoCo physics and scripted experts (`pip install 'xwam[sim]'`).

One action lasts 50 ms, unless another rate is asked for: four control steps of 12.5 ms with the same command. Its
position slots are the commanded displacement of the hand over the whole action (metres, world axes, at most ``STEP_M``
per axis and control step), its gripper slot runs from -1 (open) to 1 (close). Meta-World cannot turn the hand, so
rotation slots do nothing. The base frame is the world frame; the state is the pose of the body ``hand`` and the opening
of the fingers (0 closed, 1 open).

Where the goal is a bare point in space (``MARKED_GOALS``) a green ball marks it in every picture and in the depth:
Meta-World's own marks are often misplaced or hidden, and without one these tasks cannot be solved from images.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from xwam.records import Camera, Observation
from xwam.robot.layout import same_rate, two_arm_layout
from xwam.sim.env import check_opening, check_seed
from xwam.sim.instructions import INSTRUCTIONS, instructions
from xwam.sim.render import INSTALL, Marker, Renderer, load_mujoco
from xwam.sim.views import View, camera_records, look, place_cameras

__all__ = ["MARKED_GOALS", "METAWORLD_LAYOUT", "TASKS", "MetaWorld", "instructions", "make_metaworld"]

TASKS: tuple[str, ...] = tuple(INSTRUCTIONS)
METAWORLD_LAYOUT = two_arm_layout("metaworld", single_arm=True)
ACTION_HZ = 20.0  # unless another rate is asked for
CONTROL_HZ = 80.0
HORIZON = 500  # control steps of an episode, Meta-World's own
STEP_M = 0.01  # one control step moves the commanded position by at most so much per axis
MARKED_GOALS = (
    "coffee-pull-v3",
    "hand-insert-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "stick-pull-v3",
    "stick-push-v3",
)
# The static views just hold every task's objects, goals and hand paths (a table of 0.9 m x 0.5 m) from opposite sides:
# "left" sees what faces the table's far end, "right" the fronts of drawers, doors and buttons.
VIEWS = {
    "left": View("corner", (-0.73, 1.12, 0.87), (-0.04, 0.62, 0.10), (0, 0, 1), 36, 0.5, 2.0),
    "right": View("corner3", (0.80, 0.15, 0.84), (0.07, 0.64, 0.10), (0, 0, 1), 36, 0.5, 2.0),
    "wrist": View("gripperPOV", (-0.06, -0.10, 0.10), (0.11, 0.02, 0.0), (-1, 0, 0), 70, 0.08, 1.2, hand="left"),
}
_POSITION = METAWORLD_LAYOUT.action_slice("left_position")
_GRIPPER = METAWORLD_LAYOUT.action_slice("left_gripper")


def make_metaworld(
    task: str, *, width_px: int = 128, height_px: int = 128, action_hz: float = ACTION_HZ
) -> "MetaWorld":
    """Open one task. Raises ValueError on an unknown name or rate, ImportError with the line to install."""
    check_opening(task, TASKS, width_px, height_px)
    return MetaWorld(task, width_px=width_px, height_px=height_px, num_control_steps=control_steps(action_hz))


def control_steps(action_hz: float) -> int:
    """How many control steps one action lasts. Raises ValueError for a rate of which they are no whole number."""
    steps = round(CONTROL_HZ / action_hz) if action_hz > 0 else 0
    if not steps or not same_rate(CONTROL_HZ / steps, action_hz):
        rates = ", ".join(f"{CONTROL_HZ / count:g}" for count in (1, 2, 4, 5, 8, 10, 16))
        raise ValueError(
            f"action_hz={action_hz:g}: an action lasts a whole number of Meta-World's steps, of which there are "
            f"{CONTROL_HZ:g} a second: choose {rates}, or a lower divisor."
        )
    return steps


MAX_STEPS = HORIZON // control_steps(ACTION_HZ)


class MetaWorld:
    """One Meta-World task as an ``ExpertEnv``. Call ``reset`` first."""

    layout = METAWORLD_LAYOUT
    max_turn_rad = 0.0

    def __init__(self, task: str, *, width_px: int, height_px: int, num_control_steps: int) -> None:
        self._num_control_steps = num_control_steps
        self.action_hz, self.max_steps = CONTROL_HZ / num_control_steps, HORIZON // num_control_steps
        self.max_delta_m = STEP_M * num_control_steps
        self._mujoco = load_mujoco()
        self._raw, self._expert_class = _open_task(task)
        self.workspaces = ((np.array(self._raw.mocap_low, float), np.array(self._raw.mocap_high, float)),)
        self.task = task
        self.instruction = instructions(task)[0]
        self.success = False
        self._obs: Float[np.ndarray, " 39"] | None = None  # Meta-World's own observation; only the expert reads it
        model = self._raw.model
        place_cameras(model, VIEWS)
        # A reset writes placements into the model; these copies undo the ones of the episode before.
        self._initial = {name: getattr(model, name).copy() for name in ("body_pos", "body_quat", "site_pos")}
        self._renderer = Renderer(model, width_px=width_px, height_px=height_px)
        self.cameras: Mapping[str, Camera] = camera_records(VIEWS, width_px, height_px)

    def reset(self, seed: int) -> None:
        """Place robot and objects anew, and draw one of the wordings; all from ``seed`` alone (0 or more)."""
        check_seed(seed)
        raw, model, data = self._raw, self._raw.model, self._raw.data
        for name, values in self._initial.items():
            getattr(model, name)[:] = values
        self._mujoco.mj_resetData(model, data)
        raw.np_random = np.random.default_rng([seed, 0])
        raw.curr_path_length = 0
        raw.reset_model()
        self._mujoco.mj_forward(model, data)
        raw._prev_obs = raw._get_curr_obs_combined_no_goal()
        self._obs = np.clip(raw._get_obs(), raw.sawyer_observation_space.low, raw.sawyer_observation_space.high)
        self._expert = self._expert_class()
        self.success = False
        wordings = instructions(self.task)
        self.instruction = wordings[np.random.default_rng([seed, 1]).integers(len(wordings))]

    def step(self, action: Float[np.ndarray, " Da"]) -> bool:
        """Play one action; too large values are clipped to what Meta-World executes. Returns ``success``."""
        self._check_begun()
        self.layout.check_action(action)
        command = np.concatenate([action[_POSITION] / self.max_delta_m, action[_GRIPPER]]).clip(-1, 1)
        for _ in range(self._num_control_steps):
            self._obs, _, _, _, info = self._raw.step(command)
            self.success = self.success or bool(info["success"])
        return self.success

    def observe(self) -> Observation:
        """Three RGB-D images, the state and the instruction. Depth is 0 (unknown) beyond a camera's ``far_m``."""
        self._check_begun()
        goal = Marker(np.array(self._raw._target_pos[:3]), 0.02, (0.1, 0.9, 0.2, 1.0))
        markers = [goal] if self.task in MARKED_GOALS else []
        images, depth = look(self._renderer, self._raw.data, VIEWS, markers)
        return Observation(
            images=images, depth=depth, state=self.state(), instruction=self.instruction, cameras=self.cameras
        )

    def state(self) -> Float32[np.ndarray, " Ds"]:
        """What the layout says: hand position (metres), quaternion (w >= 0), finger opening; the right arm is zero."""
        hand = self._raw.data.body("hand")
        quat = hand.xquat if hand.xquat[0] >= 0 else -hand.xquat
        opening = self._raw._get_curr_obs_combined_no_goal()[3]
        state = np.zeros(self.layout.state_width, dtype=np.float32)
        state[:8] = np.concatenate([hand.xpos, quat, [opening]])
        return state

    def expert_action(self) -> Float32[np.ndarray, " Da"]:
        """What Meta-World's scripted expert would do now (it sees the simulator's inside).

        The expert is written for 80 Hz. It is run ahead for one action and its commands are averaged: holding its
        first command instead makes it overshoot (bin-picking: 3 of 10 episodes instead of 10).
        """
        self._check_begun()
        raw, model, obs = self._raw, self._raw.model, self._obs
        present, previous = raw.data, raw._prev_obs
        raw.data = copy.copy(present)
        commands = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "constant(s) may be too high": we clip, as Meta-World does
            for _ in range(self._num_control_steps):
                command = np.clip(self._expert.get_action(obs), -1, 1)
                commands.append(command)
                raw.set_xyz_action(command[:3])
                raw.do_simulation([command[3], -command[3]], raw.frame_skip)
                self._mujoco.mj_forward(model, raw.data)
                obs = raw._get_obs()
        raw.data, raw._prev_obs = present, previous
        action = np.zeros(self.layout.action_width, dtype=np.float32)
        action[_POSITION] = np.mean(commands, axis=0)[:3] * self.max_delta_m
        action[_GRIPPER] = np.mean(commands, axis=0)[3]
        return action

    def close(self) -> None:
        """Free the picture buffers."""
        self._renderer.close()

    def _check_begun(self) -> None:
        if self._obs is None:
            raise ValueError(f"task={self.task!r} has not begun: call reset(seed) first.")


def _open_task(task: str) -> tuple[Any, Any]:
    """Meta-World's raw environment, free to draw new placements for ever, and the class of its expert."""
    try:
        from metaworld.env_dict import ENV_CLS_MAP
        from metaworld.policies import ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: {INSTALL}") from error
    raw = ENV_CLS_MAP[task]()
    raw._set_task_called = True
    raw._freeze_rand_vec = False
    raw.seeded_rand_vec = True
    raw._partially_observable = False
    del raw.sawyer_observation_space  # cached with the goal hidden; the experts need it
    raw.max_path_length = np.iinfo(np.int64).max
    return raw, ENV_POLICY_MAP[task]
