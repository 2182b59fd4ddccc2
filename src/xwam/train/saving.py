"""The state of a run on disk, written in the background by all processes, read by any number of them.

``step-0001000/training/`` holds every process's pieces as safetensors (torch.distributed.checkpoint): ``weights.NAME``,
``average.NAME`` and the optimiser's ``first.NAME`` and ``second.NAME``, of the weights that learn. The folder has its
name only when everything in it is whole: a process that dies while saving leaves the one before.
"""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from xwam.files import flush
from xwam.train.checkpoint import TrainingState, keep_newest
from xwam.train.optimizers import moments, num_updates, set_moments, trained
from xwam.train.peers import LONGEST_WAIT, Peers, add_up

KEPT = 2  # newest checkpoints of a run that stay, besides those of keep_every and the best one in the closed loop


class Pending(NamedTuple):
    """A checkpoint that is being written."""

    temporary: Path
    target: Path
    counts: dict[str, int]  # steps of the run, and of the optimiser
    future: "Future[Any]"


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    """All that a run must remember, by name; the tensors themselves where they are float32."""
    found = {f"weights.{name}": weight.detach() for name, weight in trained(state.model)}
    found |= {f"average.{name}": state.average[name] for name, _ in trained(state.model)}
    return found | moments(state.model, state.optimizer)


def load_state(folder: Path, state: TrainingState) -> int:
    """Put a saved run back, in place, whatever number of processes wrote it; returns the number of steps done."""
    wanted = tensors_of(state)
    read_tensors(folder / "training", wanted)
    counts = json.loads((folder / "training" / "step.json").read_text())
    set_moments(state.model, state.optimizer, wanted, counts["updates"])
    return counts["step"]


def read_tensors(folder: Path, wanted: dict[str, Tensor]) -> None:
    """Fill these tensors, whole or sharded, from a folder of pieces. Raises ValueError for missing or other ones."""
    reader = HuggingFaceStorageReader(str(folder))
    entries = reader.read_metadata().state_dict_metadata
    stored = {name: tuple(entry.size) for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    wrong = [name for name, tensor in wanted.items() if stored.get(name) != tuple(tensor.shape)]
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} tensors are missing or have another shape, first {wrong[0]}: the run was made "
            "with another model or lora_rank; use the same, or train into an empty folder."
        )
    for name in wanted:  # a file that is missing leaves a hole, which the reader would pass over
        entry = entries[name]
        assert isinstance(entry, TensorStorageMetadata)
        if sum(math.prod(piece.sizes) for piece in entry.chunks) < math.prod(entry.size):
            raise ValueError(f"{folder}: pieces of {name} are missing: a file was lost; copy the folder again, whole.")
    _say_nothing_of_one_process()
    load(dict(wanted), storage_reader=reader, no_dist=not dist.is_initialized())


def clear(out: Path) -> None:
    """Remove what a run that was killed, or whose disk was full, had begun to write."""
    for old in out.glob(".tmp-step-*"):
        shutil.rmtree(old, ignore_errors=True)


class Saver:
    """Writes checkpoints of one run, one at a time, while training goes on."""

    def __init__(self, out: Path, peers: Peers, *, keep_every: int = 0) -> None:
        """``keep_every``: checkpoints of steps that are multiples of it stay for good."""
        self._out, self._peers, self._keep_every = out, peers, keep_every
        self._group: Any = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if peers.num_ranks > 1 else None
        self._pending: Pending | None = None

    def start(self, step: int, state: TrainingState, fill: Callable[[Path], None]) -> Path:
        """Begin to write; returns the folder's name to be. ``fill`` (main process) adds the files of a policy."""
        self.finish()
        target = self._out / f"step-{step:07d}"
        temporary = target.with_name(f".tmp-{target.name}")
        if self._peers.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "training").mkdir(parents=True)
            fill(temporary)
        self._meet(state)
        writer = HuggingFaceStorageWriter(str(temporary / "training"), save_distributed=True)
        _say_nothing_of_one_process()
        tensors = _by_kind(tensors_of(state))
        future = async_save(tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        assert isinstance(future, Future)
        self._pending = Pending(temporary, target, {"step": step, "updates": num_updates(state.optimizer)}, future)
        return target

    def poll(self) -> None:
        """Give a checkpoint its name if it is whole by now. Raises what went wrong while it was written."""
        if self._pending is not None and self._pending.future.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.future.result()  # done on the main process only when all pieces of all processes are written
        except BaseException:
            if self._peers.is_main:  # a full disk must not stay full
                shutil.rmtree(pending.temporary, ignore_errors=True)
            raise
        if self._peers.is_main:
            (pending.temporary / "training" / "step.json").write_text(json.dumps(pending.counts) + "\n")
            shutil.rmtree(pending.target, ignore_errors=True)
            flush(pending.temporary)
            pending.temporary.rename(pending.target)
            flush(self._out, inside=False)
            keep_newest(self._out, KEPT, self._keep_every)

    def end(self, state: TrainingState) -> None:
        """Wait, on all processes, until the last checkpoint has its name."""
        self.finish()
        self._meet(state)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._group is None:  # with peers that may be gone there is nobody to wait for
            self.finish()

    def _meet(self, state: TrainingState) -> None:
        """No process goes on before all are here."""
        add_up(torch.zeros((), device=next(iter(state.average.values())).device), self._peers).item()


def _by_kind(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The same names, in two levels: the library looks at every entry of the first level one by one."""
    nested: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        nested.setdefault(kind, {})[rest] = tensor
    return nested


def _say_nothing_of_one_process() -> None:
    """The library warns when there is a single process; that is no mistake. It warns from another thread, too."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
