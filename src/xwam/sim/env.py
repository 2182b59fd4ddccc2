"""What every simulator (and every real robot's adapter) answers. All values in physical units, numpy, unbatched.

One episode: ``reset(seed)``, then ``observe`` and ``step`` in turn, until ``success`` or ``max_steps`` actions.
"""

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from xwam.records import Camera, Observation
from xwam.robot.layout import Layout
from xwam.strict_json import suggest

Workspace = tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]  # lowest and highest, metres


@runtime_checkable
class Env(Protocol):
    """A world with a robot in it and one task to do."""

    layout: Layout
    cameras: Mapping[str, Camera]  # static: base_from_camera; on a hand: hand_from_camera
    action_hz: float  # actions per second
    task: str
    instruction: str  # the task in words; ``reset`` draws one of several wordings
    max_steps: int  # actions after which an episode counts as failed
    success: bool  # True once the task was solved in this episode

    def reset(self, seed: int) -> None:
        """Start an episode. The same seed gives the same episode; another seed, another placement. ``seed >= 0``."""
        ...

    def step(self, action: Float[np.ndarray, " Da"]) -> bool:
        """Play one action (the layout's units, 1 / action_hz seconds); returns ``success``. Refuses NaN and widths."""
        ...

    def state(self) -> Float[np.ndarray, " Ds"]:
        """The robot's state now, as the layout says; cheap: no pictures are taken."""
        ...

    def observe(self) -> Observation:
        """RGB images, metric depth (0 where unknown or beyond the camera's ``far_m``), state and instruction, now."""
        ...

    def close(self) -> None:
        """Free what the simulator holds."""
        ...


@runtime_checkable
class ExpertEnv(Env, Protocol):
    """An Env that also knows how its task is done."""

    max_delta_m: float  # the largest displacement per axis that one action executes
    max_turn_rad: float  # the largest turn that one action executes; 0 where hands cannot be turned
    workspaces: tuple[Workspace, ...]  # where each hand can be

    def expert_action(self) -> Float[np.ndarray, " Da"]:
        """What a scripted expert would do now, within the range that ``step`` executes."""
        ...


def check_task(task: str, tasks: Collection[str]) -> None:
    """Refuse a task that is not among these, with the nearest names."""
    if task not in tasks:
        raise ValueError(f"task={task!r}: {suggest(task, tasks)}")


def check_opening(task: str, tasks: Collection[str], width_px: int, height_px: int) -> None:
    """Refuse an unknown task and pictures without pixels."""
    check_task(task, tasks)
    if width_px < 1 or height_px < 1:
        raise ValueError(f"width_px={width_px}, height_px={height_px}: must be 1 or more.")


def check_seed(seed: int) -> None:
    """Refuse a placement that ``reset`` does not know."""
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more.")
