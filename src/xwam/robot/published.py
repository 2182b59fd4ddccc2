"""The robots of the published checkpoints, and their statistics under the published names.

Statistics come as ``{"q01": {...}, "q99": {...}}`` with ``proprio_<arm>_ee_xyz``, ``gripper_pos``,
``action_<arm>_ee_xyz``, ``action_<arm>_ee_axisangle`` and ``gripper_action``; both arms share the gripper's numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from xwam.robot.layout import GRIPPER_ACTIONS, Layout, two_arm_layout
from xwam.robot.normalizer import Normalizer

RobotName = Literal["robocasa", "robotwin"]
ON_HAND = ("robot0_eye_in_hand", "left_camera", "right_camera")  # of their cameras: they ride on a hand


@dataclass(frozen=True, kw_only=True)
class PublishedRobot:
    """What a published checkpoint was trained on."""

    layout: Layout
    view_names: tuple[str, ...]  # sorted, as the views were in training
    action_hz: float


ROBOTS: Mapping[RobotName, PublishedRobot] = {
    "robocasa": PublishedRobot(
        layout=two_arm_layout("robocasa", single_arm=True, raw_gripper=True),
        view_names=("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand"),
        action_hz=20.0,
    ),
    "robotwin": PublishedRobot(
        layout=two_arm_layout("robotwin", delta_gripper=True),
        view_names=("head_camera", "left_camera", "right_camera"),
        action_hz=16.7,
    ),
}


def robot_of(statistics: Mapping[str, Any]) -> RobotName:
    """Which robot has these statistics: RoboCasa's has one arm."""
    return "robotwin" if "proprio_right_ee_xyz" in statistics["q01"] else "robocasa"


def flipped_gripper(layout: Layout) -> Layout:
    """The layout of a training with ``inverse_gripper``: every gripper's sign flipped (raw commands are anyway)."""

    def turn(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(part, sign=-1) if part.kind in ("gripper", *GRIPPER_ACTIONS) else part for part in parts)

    return replace(layout, state=turn(layout.state), action=turn(layout.action))


def normalizer_from_published(statistics: Mapping[str, Any], layout: Layout) -> Normalizer:
    """Published statistics as ours; slots without any get -1 and 1. Raises ValueError naming what is missing."""
    bounds = {}
    for which, otherwise in (("q01", -1.0), ("q99", 1.0)):
        values = statistics[which]
        rows = {"state": np.full(layout.state_width, otherwise), "action": np.full(layout.action_width, otherwise)}
        for part in (p for p in layout.state if p.is_used and p.scaling != "identity"):
            rows["state"][layout.state_slice(part.name)] = _values(values, _state_name(part.name), which)
        for part in (p for p in layout.action if p.is_used and p.scaling != "identity"):
            rows["action"][layout.action_slice(part.name)] = _values(values, _action_name(part.name), which)
        bounds |= {f"{name}_{which}": row for name, row in rows.items()}
    return Normalizer(layout=layout, **bounds)


def _state_name(part: str) -> str:
    arm, what = part.split("_")
    return "gripper_pos" if what == "gripper" else f"proprio_{arm}_ee_xyz"


def _action_name(part: str) -> str:
    arm, what = part.split("_")
    names = {"position": f"action_{arm}_ee_xyz", "rotation": f"action_{arm}_ee_axisangle", "gripper": "gripper_action"}
    return names[what]


def _values(values: Mapping[str, Any], name: str, which: str) -> np.ndarray:
    if name not in values:
        raise ValueError(f"statistics {which} lack {name}; they have {', '.join(values)}: is it the right robot?")
    return np.asarray(values[name], dtype=np.float64)
