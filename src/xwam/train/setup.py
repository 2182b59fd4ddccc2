"""What is done to a model from outside: device, precision, compilation, several processes."""

import contextlib
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xwam.config import TrainConfig
from xwam.denoise.losses import Term
from xwam.model.xwam import XWAM

Precision = Literal["auto", "float32", "bfloat16"]


class World(NamedTuple):
    """This process among its peers."""

    rank: int
    num_ranks: int

    @property
    def is_main(self) -> bool:
        """The process that writes files and prints."""
        return self.rank == 0


def join_world(device: torch.device) -> World:
    """Join the processes that ``torchrun`` started; alone when it did not."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        return World(0, 1)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size())


def add_up(value: Tensor, world: World) -> Tensor:
    """The sum of every process's value."""
    if world.num_ranks > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_says(statement: bool, world: World, device: torch.device) -> bool:
    """True on every process when it is true on one."""
    return bool(add_up(torch.tensor(float(statement), device=device), world) > 0)


def global_means(terms: Mapping[str, Term], world: World) -> dict[str, Tensor]:
    """This process's share of each loss: its errors over the number that counts in the global batch.

    The shares, and their gradients, add up to the loss of one process with the whole batch.
    """
    return {name: term.sum / add_up(term.count, world).clamp(min=1) for name, term in terms.items()}


def add_gradients(model: nn.Module, world: World) -> None:
    """Make every process's gradient the sum over all processes."""
    if world.num_ranks == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = add_up(torch.cat([g.flatten() for g in gradients]), world)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def matrix_precision(device: torch.device, wanted: Precision) -> AbstractContextManager[object]:
    """Matrix products in bf16 or float32; ``auto`` is bf16 on GPUs built for it and float32 elsewhere.

    Weights, norms and the residual stream stay float32 in both. On CPUs with bf16 instructions (AVX-512 BF16, AMX)
    bf16 is about three times faster, but only on request: it changes the numbers.
    """
    is_bf16 = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(device.type, dtype=torch.bfloat16) if is_bf16 else contextlib.nullcontext()


def compile_blocks(model: XWAM) -> None:
    """Compile every block in place (names of the weights stay); all blocks share one compiled program."""
    copies = model.depth_blocks if model.config.num_depth_blocks else []
    for block in [*model.blocks, *copies]:
        block.compile(dynamic=False)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak at ``num_steps``."""
    if step < config.num_warmup_steps:
        return config.learning_rate * (step + 1) / config.num_warmup_steps
    done = (step - config.num_warmup_steps) / max(1, config.num_steps - config.num_warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
