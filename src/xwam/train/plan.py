"""How much memory will training take, per GPU, before anything is allocated?

One step is really run, forward and backward, on tensors without storage (torch's fake tensors), and a ledger notes
what would be alive after every operation. So activations are not estimated: they are counted, with the model, the
adapters, the recomputation and the precision of the real run. What lies still is counted from the shapes.

Not in it: the CUDA context (about 0.5 GB), the allocator's gaps and libraries' workspaces. Under ``torch.compile``
the activations are usually smaller.
"""

import functools
import importlib.util
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from xwam.config import Config
from xwam.model import rope, tokens
from xwam.model.xwam import XWAM, all_blocks
from xwam.tensors import Batch
from xwam.train import step
from xwam.train.optimizers import BLOCK_8BIT, LEAST_8BIT, is_block_matrix, trained
from xwam.train.options import Setup
from xwam.train.peers import Peers, check_batch
from xwam.train.precision import is_bfloat16, recompute_blocks
from xwam.train.state import lay_out, replace_weights, to_bfloat16


class Plan(NamedTuple):
    """Bytes per process. Gradients and activations are never at their most at the same time; ``peak`` knows."""

    weights: int  # those that learn, float32
    resting: int  # frozen ones (LoRA)
    average: int
    optimizer: int
    gradients: int
    gathered: int  # of shards: whole weights of the blocks at work
    activations: int
    peak: int


class Ledger(TorchDispatchMode):
    """Bytes of all tensors that are alive, after every operation: now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.without_gradients = 0  # at most
        self._gradients = 0
        self._alive: dict[int, int] = {}
        self._is_gradient: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return result

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count nothing for these, nor for views of them. Call before the first operation."""
        for tensor in tensors:
            self._alive[tensor.untyped_storage()._cdata] = 0

    def is_gradient(self, weight: Tensor) -> None:
        """From now on the gradient of this weight counts as one (a hook of autograd)."""
        assert weight.grad is not None
        storage = weight.grad.untyped_storage()
        self._note(storage)
        if storage._cdata not in self._is_gradient:
            self._is_gradient.add(storage._cdata)
            self._gradients += self._alive[storage._cdata]

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, key)
            self.most = max(self.most, self.now)
            self.without_gradients = max(self.without_gradients, self.now - self._gradients)

    def _gone(self, key: int) -> None:
        size = self._alive.pop(key)
        self.now -= size
        if key in self._is_gradient:
            self._is_gradient.remove(key)
            self._gradients -= size


def make_plan(config: Config, how: Setup, num_processes: int = 1, device: str = "cpu") -> Plan:
    """Count one step. Raises ValueError unless the batch divides among processes and micro-batches."""
    peers = Peers(0, num_processes)
    shards = how.shards or num_processes
    rows = check_batch(config.train.batch_size, peers, how)
    target = torch.device(device)
    if torch.cuda.is_available():
        in_bfloat16 = is_bfloat16(target, how.precision)
    else:  # planned for a GPU that is elsewhere: one that has it
        in_bfloat16 = how.precision == "bfloat16" or (how.precision == "auto" and target.type == "cuda")
    _remember_rotation(config)
    with torch.device("meta"):
        model = lay_out(config, replace(how, recompute=False), rest_in_bfloat16=in_bfloat16 and shards == 1)
    if in_bfloat16 and torch.device(device).type != "cpu":
        _attend_as_a_gpu(model)
    if how.recompute:
        recompute_blocks(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        replace_weights(model, lambda _, weight: torch.empty(weight.shape, dtype=weight.dtype))
        learning = trained(model)
        still = sum(_size(weight) for weight in model.parameters())
        weights, gathered = sum(_size(weight) for _, weight in learning), 0
        if shards > 1 and in_bfloat16:  # what arrives in bf16, not a copy made on the way
            to_bfloat16(model, resting_only=False)
        before = sum(_size(weight) for weight in model.parameters())
        with Ledger() as ledger:
            _run_step(model, config, how, rows, ledger, autocast=in_bfloat16 and shards == 1)
    activations = ledger.without_gradients
    optimizer = sum(_optimizer_bytes(name, weight, how, shards) for name, weight in learning)
    if shards > 1:
        largest = max(_module_bytes(block) for block in all_blocks(model))
        rest = before - sum(_module_bytes(block) for block in all_blocks(model))
        gathered = rest + 2 * largest + 2 * largest  # at work and next; their gradients on the way out
    lasting = (still + weights) // shards + optimizer  # weights, and the average of those that learn
    peak = lasting + (ledger.most if shards == 1 else activations + gathered + weights // shards)
    return Plan(
        weights=weights // shards,
        resting=(still - weights) // shards,
        average=weights // shards,
        optimizer=optimizer,
        gradients=weights // shards,
        gathered=gathered,
        activations=activations,
        peak=peak,
    )


def markdown(config: Config, how: Setup, num_processes: int = 1, device: str = "cpu") -> str:
    """A table: all weights or LoRA, without and with recomputation; everything else as in ``how``."""
    rank = how.lora_rank or 32
    has_lora = how.lora_rank > 0 or importlib.util.find_spec("peft") is not None
    kinds = {"all weights": 0} | ({f"LoRA {rank}": rank} if has_lora else {})
    ways = {
        f"{name}{', recomputed' if recompute else ''}": replace(how, lora_rank=lora_rank, recompute=recompute)
        for name, lora_rank in kinds.items()
        for recompute in (False, True)
    }
    plans = {name: make_plan(config, way, num_processes, device) for name, way in ways.items()}
    rows = check_batch(config.train.batch_size, Peers(0, num_processes), how)
    lines = [
        f"{config.name}: batch {config.train.batch_size} = {num_processes} processes x {how.accumulate} micro-batches "
        f"x {rows} clips; {how.optimizer}; weights shared by {how.shards or num_processes}. Per process:",
        "",
        f"| GB | {' | '.join(plans)} |",
        f"| --- |{' ---: |' * len(plans)}",
    ]
    for part in Plan._fields:
        name = "**peak of a step**" if part == "peak" else part
        lines.append(f"| {name} | {' | '.join(f'{plan._asdict()[part] / 1e9:.3f}' for plan in plans.values())} |")
    if config.train.validate_every:
        copy = plans["all weights"].weights * (how.shards or num_processes) / 1e9
        lines += [
            "",
            f"Validation keeps a second model ({copy:.3f} GB) and the autoencoder on the main process's device; "
            "--validate-every 0 does without.",
        ]
    if not has_lora:
        lines += ["", "Without LoRA: peft is not installed (pip install 'xwam[lora]')."]
    return "\n".join(lines)


def _run_step(model: nn.Module, config: Config, how: Setup, rows: int, ledger: Ledger, *, autocast: bool) -> None:
    """Two micro-batches when there are several: gradients of the first lie there while the second runs."""
    ledger.leave_out(model.parameters())
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(ledger.is_gradient)
    batch = empty_batch(config, rows)
    drawn = step.draw(batch, config, torch.Generator().manual_seed(0))
    for _ in range(min(how.accumulate, 2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            terms = step.compute_terms(model, batch, drawn, batch.prompt[0])  # pyright: ignore[reportArgumentType]
        losses = {name: term.sum / term.count.clamp(min=1) for name, term in terms.items()}
        del terms
        step.total_loss(losses, config).backward()


def empty_batch(config: Config, rows: int) -> Batch:
    """Zeros in the shape of a batch."""
    model, clip = config.model, config.clip
    grid = _grid(config)
    cells = (grid.rows * model.patch_size[1], grid.columns * model.patch_size[2])
    latents = torch.zeros(rows, model.latent_channels, grid.frames * model.patch_size[0], grid.views, *cells)
    state = torch.zeros(rows, clip.num_states, model.state_width)
    action = torch.zeros(rows, clip.action_horizon, model.action_width)
    seen = torch.ones(rows, latents.shape[2], grid.views, dtype=torch.bool)
    masks = (seen, seen, torch.ones_like(state, dtype=torch.bool), torch.ones_like(action, dtype=torch.bool))
    return Batch(
        latents,
        latents.clone(),
        state,
        action,
        *masks,
        executed=action.clone(),
        prompt=torch.zeros(rows, model.text_length, model.text_width),
    )


def _grid(config: Config) -> tokens.Grid:
    model, clip = config.model, config.clip
    cells = (config.num_latent_frames, *config.latent_grid)
    frames, rows, columns = (size // patch for size, patch in zip(cells, model.patch_size, strict=True))
    return tokens.Grid(frames, model.num_views, rows, columns, clip.action_horizon, clip.num_states)


def _remember_rotation(config: Config) -> None:
    """The table of positions is remembered, so it must be a real one."""
    rope.rotation(_grid(config), config.model, torch.device("cpu"))


class _FlashAttention(TorchFunctionMode):
    """Attention as a GPU does it: in the products' precision, where a CPU works in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            args = tuple(t.bfloat16() for t in args)
        return func(*args, **(kwargs or {}))


def _attend_as_a_gpu(model: XWAM) -> None:
    """Every block enters the mode by itself: where it is computed again, on the way back, no outer mode holds."""

    def inside(forward: Any, *args: Any, **kwargs: Any) -> Any:
        with _FlashAttention():
            return forward(*args, **kwargs)

    for block in all_blocks(model):
        block.forward = functools.partial(inside, block.forward)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize


def _module_bytes(module: nn.Module) -> int:
    return sum(_size(weight) for weight in module.parameters())


def _optimizer_bytes(name: str, weight: Tensor, how: Setup, shards: int) -> int:
    numel = weight.numel() // shards
    if how.optimizer == "muon":
        return 4 * numel if is_block_matrix(name, weight) else 8 * numel
    if how.optimizer == "adamw" or numel < LEAST_8BIT:
        return 8 * numel
    return 2 * numel + 8 * -(-numel // BLOCK_8BIT)
