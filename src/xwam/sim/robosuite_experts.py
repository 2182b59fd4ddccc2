"""Scripted experts for robosuite's tasks: they see the simulator's inside and say where each hand should be now.

An expert has no memory: the same scene gives the same goal, so it also knows what to do after it was disturbed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.robot.rotations import matrix_from_quat

OPEN, CLOSED = -1.0, 1.0
ABOVE_M = 0.08  # over a thing, before going down to it
NEAR_M, NEAR_RAD = 0.012, 0.12  # the hand stands over a thing and is turned as it should
HANDLE_YAW = np.deg2rad(-25)  # the middle of the turns by which a hand takes a handle
UP = np.array([0.0, 0.0, 1.0])
FAST_M, SLOW_M = 0.02, 0.01  # per action


class Hand(NamedTuple):
    """A hand now."""

    position: Float[np.ndarray, " 3"]
    quat: Float[np.ndarray, " 4"]  # wxyz
    opening: float  # 0 closed, 1 open

    @property
    def yaw(self) -> float:
        """The turn about the vertical, radians."""
        turned = matrix_from_quat(self.quat)
        return float(np.arctan2(turned[1, 0], turned[0, 0]))


class Goal(NamedTuple):
    """Where a hand should be, pointing straight down."""

    position: Float[np.ndarray, " 3"]
    yaw: float
    gripper: float
    speed_m: float = FAST_M  # at most, per axis and action


def lift(raw: Any, hands: Sequence[Hand]) -> list[Goal]:
    """Lift: grasp the cube across two of its faces and raise it."""
    (hand,) = hands
    cube = raw.sim.data.body_xpos[raw.cube_body_id].copy()
    yaw = _nearest(_yaw(raw, raw.cube_body_id), np.pi / 2)
    if _holds(raw, 0, raw.cube):
        return [Goal(cube + 0.15 * UP, yaw, CLOSED)]
    return [_grasp(hand, cube, yaw)]


def stack(raw: Any, hands: Sequence[Hand]) -> list[Goal]:
    """Stack: grasp the red cube, carry it over the green one, set it down, let go and rise."""
    (hand,) = hands
    red, green = (raw.sim.data.body_xpos[body].copy() for body in (raw.cubeA_body_id, raw.cubeB_body_id))
    yaw = _nearest(_yaw(raw, raw.cubeA_body_id), np.pi / 2)
    on_top = green + (raw.cubeA.size[2] + raw.cubeB.size[2]) * UP
    held = red - hand.position  # the cube in the hand is not where the hand is
    is_over = np.abs((red - on_top)[:2]).max() < 0.008
    if is_over and red[2] < on_top[2] + 0.006:
        return [Goal(hand.position + (ABOVE_M if hand.opening > 0.6 else 0.0) * UP, hand.yaw, OPEN, SLOW_M)]
    if not _holds(raw, 0, raw.cubeA):
        return [_grasp(hand, red, yaw)]
    if is_over:
        return [Goal(on_top - held, hand.yaw, CLOSED, SLOW_M)]
    height = on_top[2] + 0.04
    if red[2] < height - 0.015:  # first up, then across
        return [Goal(np.append(hand.position[:2], height + 0.01 - held[2]), hand.yaw, CLOSED)]
    return [Goal(np.append(on_top[:2], height) - held, hand.yaw, CLOSED)]


def two_arm_lift(raw: Any, hands: Sequence[Hand]) -> list[Goal]:
    """TwoArmLift: each hand grasps the bar of its handle; when both hold, they rise together."""
    # The fingers open along the hand's x; the last joint turns further one way than the other.
    yaw = _nearest(_yaw(raw, raw.pot_body_id) + np.pi / 2 - HANDLE_YAW, np.pi) + HANDLE_YAW
    handles = (raw.pot.handle0_geoms, raw.pot.handle1_geoms)
    sites = (raw._handle0_xpos.copy(), raw._handle1_xpos.copy())
    if all(_holds(raw, number, geoms) for number, geoms in enumerate(handles)):
        height = min(site[2] for site in sites) + 0.03  # the lower one first: the pot stays level
        return [
            Goal(np.append(hand.position[:2], height + (hand.position - site)[2]), hand.yaw, CLOSED, SLOW_M)
            for hand, site in zip(hands, sites, strict=True)
        ]
    return [_grasp(hand, site, yaw) for hand, site in zip(hands, sites, strict=True)]


EXPERTS: dict[str, Callable[[Any, Sequence[Hand]], list[Goal]]] = {
    "Lift": lift,
    "Stack": stack,
    "TwoArmLift": two_arm_lift,
}


def _grasp(hand: Hand, thing: Float[np.ndarray, " 3"], yaw: float) -> Goal:
    """Over the thing, down to it, and close."""
    away = np.abs((hand.position - thing)[:2]).max()
    turned = abs(_nearest(hand.yaw - yaw, 2 * np.pi))
    over = hand.position[2] - thing[2]
    if away < 2 * NEAR_M and (over < 0.008 or (over < 0.02 and hand.opening < 0.6)):
        return Goal(thing, yaw, CLOSED)
    if away < NEAR_M and turned < NEAR_RAD:
        return Goal(thing, yaw, OPEN)
    return Goal(thing + ABOVE_M * UP, yaw, OPEN)


def _holds(raw: Any, number: int, thing: Any) -> bool:
    return bool(raw._check_grasp(gripper=raw.robots[number].gripper, object_geoms=thing))


def _yaw(raw: Any, body: int) -> float:
    turned = matrix_from_quat(raw.sim.data.body_xquat[body])
    return float(np.arctan2(turned[1, 0], turned[0, 0]))


def _nearest(angle: float, period: float) -> float:
    """The same turn of a thing that looks alike after ``period``, nearest to none."""
    return float((angle + period / 2) % period - period / 2)
