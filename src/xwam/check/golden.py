"""Recompute a whole folder of golden numbers: what the published code answered, what ours answers.

A folder may hold any of the files in KINDS, of any sizes and names; everything is read from the JSON beside each file.
A case is one line: the largest error of its tensors, each relative to its own peak.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from xwam.check.golden_data import check_clips
from xwam.check.golden_denoise import STATISTICS_BOUND, check_levels, check_sampler, check_schedules
from xwam.check.golden_model import check_model
from xwam.check.golden_policy import check_policy
from xwam.check.golden_recipe import read_json, relative_error
from xwam.check.golden_text import check_text
from xwam.check.golden_training import check_training
from xwam.check.golden_vae import check_vae
from xwam.model.vae import WAN22_LATENT_MEAN, WAN22_LATENT_STD

Verdict = Literal["ok", "FAIL", "differs on purpose", "not compared"]
Check = Callable[..., Iterator[tuple[str, float]]]
"""Maps a folder and a file's name (without ending) to names ``CASE/TENSOR`` and errors."""

BOUND = 1e-5
IMAGE_BOUND = 1e-3  # share of the images' range, after a video decoder
ON_PURPOSE = {"refused", "not scaled"}  # faults of the published code; the error is 0 when ours does what it should
NOT_COMPARED = "not compared"


class Kind(NamedTuple):
    """One kind of golden files: what they are called and what recomputes them."""

    pattern: str
    check: Check
    runs_network: bool  # and so takes a device


class Case(NamedTuple):
    """One line of the report; ``note`` names the worst tensor, or says what went wrong."""

    name: str
    error: float
    bound: float
    verdict: Verdict
    note: str = ""


def check_golden(folder: Path, *, device: str = "cpu") -> Iterator[Case]:
    """Every case below ``folder``, one after the other; networks run on ``device``, in full float32 (no TF32).

    Raises FileNotFoundError or ValueError when there is no such folder or nothing golden in it.
    """
    torch.backends.cudnn.allow_tf32 = False  # convolutions; products are in float32 unless somebody asks
    patterns = ", ".join(kind.pattern for kind in KINDS)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={folder}: no such folder; give one with golden files ({patterns}).")
    files = [(path, kind) for kind in KINDS for path in sorted(folder.rglob(kind.pattern))]
    if not files:
        raise ValueError(f"folder={folder}: has no golden files; they are called {patterns}.")
    for path, kind in files:
        where = {"device": device} if kind.runs_network else {}
        yield from _cases(str(path.relative_to(folder).with_suffix("")), kind.check(path.parent, path.stem, **where))


def _cases(name: str, errors: Iterator[tuple[str, float]]) -> Iterator[Case]:
    """Tensors of one case together; a file that cannot be recomputed is a case that fails."""
    cases: dict[str, dict[str, float]] = {}
    trouble = ""
    try:
        for key, error in errors:
            case, _, tensor = key.rpartition("/")
            cases.setdefault(case, {})[tensor] = error
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        trouble = f"{type(error).__name__}: {error}"
    for case, tensors in cases.items():
        yield _case("/".join(filter(None, (name, case))), tensors)
    if trouble or not cases:
        yield Case(name, float("nan"), BOUND, "FAIL", " ".join(trouble.split()) or "nothing in it could be recomputed")


def _case(name: str, tensors: dict[str, float]) -> Case:
    worst = list(tensors)[int(np.argmax(list(tensors.values())))]  # NaN counts as the largest
    error = tensors[worst]
    bound = BOUND
    if name.endswith("/images"):
        bound = IMAGE_BOUND
    elif "ans_statistics" in name:
        bound = STATISTICS_BOUND
    if not error <= bound:
        return Case(name, error, bound, "FAIL", worst)
    if NOT_COMPARED in tensors:
        return Case(name, float("nan"), bound, "not compared", worst)
    return Case(name, error, bound, "differs on purpose" if ON_PURPOSE & set(tensors) else "ok", worst)


def _check_both_precisions(folder: Path, name: str, *, device: str = "cpu") -> Iterator[tuple[str, float]]:
    yield from check_model(folder, name, device=device)
    yield from check_model(folder, name, dtype=torch.float64, device=device)


def _check_latent_statistics(folder: Path, name: str) -> Iterator[tuple[str, float]]:
    golden = read_json(folder, name)
    for key, ours in (("latents_mean", WAN22_LATENT_MEAN), ("latents_std", WAN22_LATENT_STD)):
        yield key, relative_error(np.array(ours), np.array(golden[key]))


KINDS = (
    Kind("schedules*.json", check_schedules, runs_network=False),
    Kind("ans_statistics*.json", check_levels, runs_network=False),
    Kind("t5_*.json", check_text, runs_network=True),
    Kind("wan22_vae_latent_stats.json", _check_latent_statistics, runs_network=False),
    Kind("vae_*.json", check_vae, runs_network=True),
    Kind("model_*.json", _check_both_precisions, runs_network=True),
    Kind("sampler_*.json", check_sampler, runs_network=True),
    Kind("train_*.json", check_training, runs_network=True),
    Kind("data_*.json", check_clips, runs_network=False),
    Kind("policy*.json", check_policy, runs_network=False),
)
