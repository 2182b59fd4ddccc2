"""A JSON file of results that goes on: one process writes it, and it holds the results of one way to ask one policy."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xwam.files import as_json, claimed
from xwam.policy import Policy

METRICS = 2  # counts up when what is measured changes: numbers of two kinds are no one result
FOLDER = Path("runs/evaluation")  # where results go when no file is named


class OtherSettingsError(ValueError):
    """A file holds results of other settings: they are neither continued nor replaced."""


class BusyError(ValueError):
    """Another process is writing this file."""


def check_file(out: Path) -> None:
    """Refuse another ending than .json for the results: the report lies beside them, as .html."""
    if out.suffix != ".json":
        raise ValueError(f"out={out}: the name must end in .json; the report of it ends in .html.")


@torch.no_grad()
def identity(policy: Policy) -> dict[str, Any]:
    """What tells results from others in JSON's own types: a digest of the weights, their precision, how it denoises.

    The digest does not show the precision: weights that were stored in bfloat16 are the same in both.
    """
    digest = hashlib.sha256()
    for network in (policy.networks.transformer, policy.networks.vae):
        for value in network.state_dict().values():
            bits = value.float().contiguous().view(torch.int32).long()  # whole numbers: their sums have no order
            digest.update(np.array([bits.sum().item(), (bits * bits).sum().item()]).tobytes())
    dtype = next(policy.networks.transformer.parameters()).dtype
    return {
        "metrics": METRICS,
        "weights": digest.hexdigest()[:16],
        "precision": str(dtype).removeprefix("torch."),
        "denoise": asdict(policy.config.denoise),
        "statistics": policy.normalizer.fingerprint(),
    }


def are_same(stored: Mapping[str, Any], asked: Mapping[str, Any], *, but: Collection[str] = ()) -> bool:
    """Whether settings that a file holds are those asked for (tuples count as lists); names in ``but`` may differ."""
    found, wanted = (as_json({name: x for name, x in some.items() if name not in but}) for some in (stored, asked))
    return found == wanted


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """While this process alone writes ``out``: two would each throw away what the other found. Raises BusyError."""
    with claimed(out.with_name(f".claim-{out.name}")) as is_mine:
        if not is_mine:
            raise BusyError(
                f"out={out}: another evaluation is writing it; wait for it, or choose another file (--out)."
            )
        yield


def first_free(name: str, run: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Run into ``runs/evaluation/NAME.json``, or the first of NAME-2, NAME-3, … that is free of other results."""
    number = 1
    while True:
        path = FOLDER / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
        try:
            with writing(path):
                return path, run(path)
        except (OtherSettingsError, BusyError):
            number += 1
