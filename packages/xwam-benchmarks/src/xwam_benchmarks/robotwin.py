"""RoboTwin 2.0 plays an xwam server with its own evaluation script: this module is what it calls a policy.

In RoboTwin's checkout ``policy/xwam/__init__.py`` holds ``from xwam_benchmarks.robotwin import *``, and
``policy/xwam/deploy_policy.yml`` its settings beside ``host``, ``port``, ``replan_every``, ``api_key_file``,
``cameras`` (a map: the model's names -> ``head_camera``, ``left_camera``, ``right_camera``). Poses are those of its
``endpose`` (metres, quaternion wxyz). Of an answer ``replan_every`` actions are played, each as a target for both hands
(``action_type="ee"``): what the actions add up to from where the hands were when the question was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from xwam_client.client import Client, Observation

from xwam_benchmarks.evaluate import facts_of
from xwam_benchmarks.rotations import matrix_from_quat, matrix_from_vector, quat_from_matrix
from xwam_benchmarks.slots import Axes, Slots, names_of_cameras

__all__ = ["eval", "get_model", "reset_model"]

ARMS = ("left", "right")
CAMERAS = ("head_camera", "left_camera", "right_camera")
OTHER_NAMES = {"head": "head_camera", "left_wrist": "left_camera", "right_wrist": "right_camera"}
BASE_TURN = ((0, 1, 0), (-1, 0, 0), (0, 0, 1))  # of the published weights: x forward, y left
HAND_TURN = ((0, 0, 1), (0, -1, 0), (1, 0, 0))

STATE = {"position": ("position",), "rotation": ("quat_wxyz",), "gripper": ("gripper",)}
ACTION = {
    "position": ("delta_position",),
    "rotation": ("delta_rotation",),
    "gripper": ("delta_gripper", "gripper_command"),
}


class Model:
    """A connection to a server, and what of its answers is played."""

    def __init__(self, client: Client, *, replan_every: int = 16, cameras: Mapping[str, str] | None = None) -> None:
        """Raises MismatchError when the server's checkpoint is not made for this robot."""
        known = client.metadata
        if not 1 <= replan_every <= known["action_horizon"]:
            raise ValueError(
                f"replan_every={replan_every}: must be in 1..{known['action_horizon']}, an answer's actions."
            )
        self.client, self.replan_every, self.num_asked, self._known = client, replan_every, 0, facts_of(client)
        self.translator = Translator(known)
        self.cameras = names_of_cameras(known, CAMERAS, OTHER_NAMES, cameras or {})

    def targets(self, observation: Mapping[str, Any], instruction: str) -> np.ndarray:
        """``N 16``: per arm position, quaternion wxyz and opening, for each action that shall be played.

        Raises ValueError when the server has come back as another one.
        """
        images = {name: observation["observation"][camera]["rgb"] for name, camera in self.cameras.items()}
        state = self.translator.state(observation["endpose"])
        actions = self.client.infer(Observation(images, state, instruction), seed=self.num_asked)
        if facts_of(self.client) != self._known:
            raise ValueError(f"server {self.client.uri} now has another checkpoint or other settings: begin anew.")
        self.num_asked += 1
        return self.translator.targets(observation["endpose"], actions[: self.replan_every])


class Translator:
    """RoboTwin's poses of both hands <-> the server's layout."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Raises MismatchError when the layout asks for what the robot does not have."""
        offered = {f"{arm}_{what}": kinds for arm in ARMS for what, kinds in STATE.items()}
        self._state = Slots(metadata["layout"]["state"], offered, "state")
        offered = {f"{arm}_{what}": kinds for arm in ARMS for what, kinds in ACTION.items()}
        self._action = Slots(metadata["layout"]["action"], offered, "action")
        self._is_change = any(part["kind"] == "delta_gripper" for part in metadata["layout"]["action"])
        self._axes = Axes(metadata, BASE_TURN, HAND_TURN)

    def state(self, endpose: Mapping[str, Any]) -> np.ndarray:
        """``Ds``: metres, quaternions wxyz, openings 0..1."""
        base, turn, values = self._axes.base_turn, self._axes.hand_turn, {}
        for arm in ARMS:
            pose = np.asarray(endpose[f"{arm}_endpose"], dtype=np.float64)
            values[f"{arm}_position"] = base @ pose[:3]
            values[f"{arm}_rotation"] = quat_from_matrix(base @ matrix_from_quat(pose[3:]) @ turn)
            values[f"{arm}_gripper"] = endpose[f"{arm}_gripper"]
        return self._state.row(values)

    def targets(self, endpose: Mapping[str, Any], actions: np.ndarray) -> np.ndarray:
        """``N 16``: what each of these actions leads to, one after the other, from this pose of the hands."""
        columns = []
        for arm in ARMS:
            pose = np.asarray(endpose[f"{arm}_endpose"], dtype=np.float64)
            position, hand, opening = pose[:3], matrix_from_quat(pose[3:]), float(endpose[f"{arm}_gripper"])
            rows = []
            for action in actions:
                values = self._action.values(action)
                position = position + self._in_base(values, f"{arm}_position")
                hand = matrix_from_vector(self._in_base(values, f"{arm}_rotation")) @ hand
                told = float(values.get(f"{arm}_gripper", np.zeros(1))[0])
                opening = float(np.clip(opening + told if self._is_change else (told + 1) / 2, 0, 1))
                rows.append([*position, *quat_from_matrix(hand), opening])
            columns.append(rows)
        return np.concatenate([np.array(rows).reshape(-1, 8) for rows in columns], axis=1)

    def _in_base(self, values: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        return self._axes.base_turn.T @ values.get(name, np.zeros(3))


def get_model(usr_args: Mapping[str, Any]) -> Model:
    """What RoboTwin calls once: connect, and compare."""
    key = Path(usr_args["api_key_file"]).read_text().strip() if usr_args.get("api_key_file") else None
    client = Client(usr_args.get("host", "127.0.0.1"), int(usr_args.get("port", 8000)), api_key=key)
    return Model(client, replan_every=int(usr_args.get("replan_every", 16)), cameras=usr_args.get("cameras"))


def eval(TASK_ENV: Any, model: Model, observation: Mapping[str, Any]) -> None:
    """What RoboTwin calls until the episode is over: ask once, play a part of the answer."""
    for target in model.targets(observation, TASK_ENV.get_instruction()):
        TASK_ENV.take_action(target, action_type="ee")
        if TASK_ENV.eval_success:
            return


def reset_model(model: Model) -> None:
    """What RoboTwin calls before each episode."""
    model.client.reset()
    model.num_asked = 0
