"""Several processes that train one model, as ``torchrun`` starts them: who each is, waiting, adding up."""

import atexit
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xwam.denoise.losses import Term
from xwam.files import claimed
from xwam.model.device import device_of
from xwam.train.options import Setup, memory_advice

LONGEST_WAIT = timedelta(hours=2)  # for one process that validates while the others wait
BUCKET_BYTES = 256 << 20  # of gradients that are sent together
LONGEST_PREPARATION = timedelta(days=30)  # autoencoder and latents, by the first process alone


class Peers(NamedTuple):
    """This process among its peers."""

    rank: int
    num_ranks: int

    @property
    def is_main(self) -> bool:
        """The process that writes files and prints."""
        return self.rank == 0


def join_peers(device: torch.device) -> Peers:
    """Join the processes that ``torchrun`` started; alone when it did not."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        return Peers(0, 1)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
        atexit.register(_leave_peers)
    return Peers(dist.get_rank(), dist.get_world_size())


def _leave_peers() -> None:
    """Before the interpreter goes, or threads of the group may be destroyed while they run (exit code -6)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def my_device(device: str) -> torch.device:
    """``cuda`` means this process's own GPU when ``torchrun`` started several."""
    target = device_of(device)
    if target.type == "cuda" and target.index is None and "LOCAL_RANK" in os.environ:
        target = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(target)
    return target


def check_batch(batch_size: int, peers: Peers, how: Setup) -> int:
    """Clips of one micro-batch. Raises ValueError unless the global batch divides evenly and shards fit."""
    pieces = peers.num_ranks * how.accumulate
    if batch_size % pieces:
        raise ValueError(
            f"batch_size={batch_size} (of all processes together) must be a multiple of {peers.num_ranks} processes "
            f"times {how.accumulate} micro-batches: choose --accumulate or --batch-size so that it is."
        )
    if how.shards and peers.num_ranks % how.shards:
        raise ValueError(
            f"shards={how.shards}: must divide the number of processes ({peers.num_ranks}); 0 means all of them."
        )
    return batch_size // pieces


@contextlib.contextmanager
def one_after_the_other(peers: Peers) -> Iterator[None]:
    """The main process does what is inside first, so that the others find it done. It may take days."""
    if peers.num_ranks == 1:
        yield
        return
    group = dist.new_group(backend="gloo", timeout=LONGEST_PREPARATION)
    assert isinstance(group, dist.ProcessGroup)
    if not peers.is_main:
        dist.barrier(group)
    yield
    if peers.is_main:
        dist.barrier(group)


@contextlib.contextmanager
def only_one_command(out: Path, peers: Peers, device: torch.device) -> Iterator[bool]:
    """True for the command (all its processes) that holds this run's folder, as long as it runs."""
    with contextlib.ExitStack() as stack:
        is_taken = peers.is_main and not stack.enter_context(claimed(out / ".claim-run"))
        yield not any_says(is_taken, peers, device)


@contextlib.contextmanager
def peers_may_wait(peers: Peers) -> Iterator[None]:
    """An error inside ends this one of several processes at once, so that torchrun ends the others.

    They wait for an answer of this one; a good-bye (``destroy_process_group``) would wait for theirs in turn.
    """

    def leave(_kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and peers.num_ranks > 1:
            traceback.print_exception(error)
            advice = memory_advice(error)
            if advice is not None:
                sys.stderr.write(f"xwam: {advice}\n")
            sys.stderr.flush()
            os._exit(1)

    with contextlib.ExitStack() as stack:
        stack.push(leave)
        yield


def add_up(value: Tensor, peers: Peers) -> Tensor:
    """The sum of every process's value."""
    if peers.num_ranks > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_says(statement: bool, peers: Peers, device: torch.device) -> bool:
    """True on every process when it is true on one."""
    return bool(add_up(torch.tensor(float(statement), device=device), peers) > 0)


def global_counts(terms: Mapping[str, Term], peers: Peers) -> dict[str, Tensor]:
    """How many elements of the global batch count, by modality; at least 1.

    Errors of any part of the batch over these numbers, and their gradients, add up to the loss of the whole batch.
    """
    return {name: add_up(term.count, peers).clamp(min=1) for name, term in terms.items()}


def add_gradients(model: nn.Module, peers: Peers) -> None:
    """Make every process's gradient the sum over all processes (for models that are not sharded)."""
    if peers.num_ranks == 1:
        return
    for together in _buckets([p.grad for p in model.parameters() if p.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in together])
        dist.all_reduce(flat)
        for gradient, part in zip(together, flat.split([g.numel() for g in together]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours, up to BUCKET_BYTES together: few messages, and no second copy of all gradients at once."""
    together, size = list[Tensor](), 0
    for gradient in gradients:
        if together and size + gradient.nbytes > BUCKET_BYTES:
            yield together
            together, size = [], 0
        together.append(gradient)
        size += gradient.nbytes
    if together:
        yield together
