"""Options that verbs share, or that come in groups. Nothing heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xwam.config import Dtype, Imagining

if TYPE_CHECKING:
    import torch


def torch_dtype(name: Dtype) -> "torch.dtype":
    """Torch's own dtype of this name."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Denoising steps of an answer: fewer are faster."""

    action_steps: int | None = None
    """denoising steps until the actions are finished; by default the checkpoint's."""
    video_steps: int | None = None
    """denoising steps until the world is finished, those of the actions included; by default the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """With ``--data``: how clips of held-out episodes are compared."""

    clips: int = 32
    """held-out clips to compare: one of every episode before a second of any."""
    mode: Imagining = "joint"
    """joint: it imagines its own actions; forward_dynamics: it is told those that were really played."""
    region: tuple[float, float, float, float, float, float] | None = None
    """Score the clouds once more inside this box (lowest x y z, highest x y z; base frame, metres)."""
    depth_teacher: Path | None = None
    """Folder of a depth model of transformers, to compare the imagined depth with."""


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """With ``--env``: how episodes are played."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; by default one."""
    episodes: int = 10
    """Episodes per task."""
    replan_every: int = 16
    """Actions played of each chunk before the next decision."""
    max_steps: int | None = None
    """Actions per episode; by default the simulator's own (metaworld 125, robosuite 150)."""
    processes: int = 2
    """Simulators in parallel."""
    blind: bool = False
    """Baseline that sees grey images."""
    random: bool = False
    """Baseline that draws actions at random."""
