"""AdamW, with moments in float32 or in 8 bits (bitsandbytes), on whole or sharded weights; and Muon, on whole ones.

AdamW works element by element, so each process gives it the piece of every weight that it holds. What leaves this room
are the two moments in float32, shaped as the weight: so a run saved with one AdamW resumes with another. Muon makes the
update of a matrix orthogonal (Jordan et al., 2024; scaled to AdamW's size as in arXiv 2502.16982), so that directions
with a small gradient are learned too; it has one moment, and the second is saved as zeros. It trains autoencoders too.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from xwam.config import TrainConfig
from xwam.train.options import OptimizerName

BETAS = (0.9, 0.95)
MOMENTUM = 0.95  # of Muon
ADAMW_SIZE = 0.2  # typical size of a number in AdamW's step, in units of the learning rate
LEAST_8BIT = 4096  # bitsandbytes keeps the moments of smaller tensors in float32
BLOCK_8BIT = 256  # numbers that share one scale


def local(tensor: Tensor) -> Tensor:
    """The piece of a tensor that this process holds (the tensor itself when it is not sharded)."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shaped_like(piece: Tensor, whole: Tensor) -> Tensor:
    """The inverse of local: a piece as a part of something that lies as ``whole`` does."""
    if not isinstance(whole, DTensor):
        return piece
    return DTensor.from_local(
        piece, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The weights that learn, matrices first: the order of the optimiser."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [(n, p) for n, p in learning if p.ndim >= 2] + [(n, p) for n, p in learning if p.ndim < 2]


def is_block_matrix(name: str, weight: Tensor) -> bool:
    """True for what Muon steps: the products inside the blocks, but no embedding, head or table."""
    return "blocks." in name and weight.ndim == 2


def is_convolution(name: str, weight: Tensor) -> bool:
    """True for what Muon steps in an autoencoder: its convolutions, but not the last one, which makes the pixels."""
    return name.endswith(".weight") and weight.ndim >= 4 and "decoder.conv_out" not in name


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of the blocks, AdamW for everything else; one learning rate serves both.

    The numbers of ``torch.optim.Muon``, but all matrices of one shape at a time, which spares a GPU thousands of calls.
    ``is_matrix`` names other weights for it; of a convolution, each output is a row.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        is_matrix: Callable[[str, Tensor], bool] = is_block_matrix,
    ) -> None:
        learning = trained(model)
        self.matrices = [p for name, p in learning if is_matrix(name, p)]
        rest = [p for name, p in learning if not is_matrix(name, p)]
        decays, others = [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]
        self.adamw = torch.optim.AdamW(
            [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=learning_rate, betas=BETAS, fused=True,
        )  # fmt: skip
        mine = {"params": self.matrices, "lr": learning_rate, "weight_decay": weight_decay}
        super().__init__([mine, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """One table of moments, and one learning rate, for both."""
        self.adamw.state, self.adamw.param_groups = self.state, self.param_groups[1:]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimiser's; moments lie in memory as their weights do, which the fused AdamW takes for granted."""
        super().load_state_dict(state_dict)
        for weight, kept in self.state.items():
            for name, value in kept.items():
                if value.shape == weight.shape:
                    kept[name] = torch.empty_like(weight).copy_(value)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Change the weights by their gradients."""
        settings = self.param_groups[0]
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for matrix in self.matrices:
            if matrix.grad is not None:
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                memory = self.state[matrix]["momentum_buffer"]
                memory.lerp_(matrix.grad, 1 - MOMENTUM)
                by_shape.setdefault(matrix.shape, []).append((matrix, matrix.grad.lerp(memory, MOMENTUM)))
        for shape, alike in by_shape.items():
            directions = orthogonal(torch.stack([ahead.flatten(1) for _, ahead in alike]))
            size = settings["lr"] * ADAMW_SIZE * max(directions.shape[1:]) ** 0.5
            for (matrix, _), direction in zip(alike, directions, strict=True):
                matrix.mul_(1 - settings["lr"] * settings["weight_decay"]).add_(direction.view(shape), alpha=-size)
        self.adamw.step()


def orthogonal(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Nearly the nearest orthogonal matrices, in bf16: five steps of Newton and Schulz (Jordan et al., 2024)."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.mT if is_tall else x


def make_optimizer(model: nn.Module, config: TrainConfig, name: OptimizerName = "adamw") -> torch.optim.Optimizer:
    """The optimiser of that name; weight decay on matrices only. 8 bits need ``xwam[lowmem]``, paged ones a GPU."""
    if name == "muon":
        return Muon(model, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    weights = [p for _, p in trained(model)]
    mine = [p if not isinstance(p, DTensor) else nn.Parameter(local(p.detach())) for p in weights]
    matrices = [m for m, p in zip(mine, weights, strict=True) if p.ndim >= 2]
    others = [m for m, p in zip(mine, weights, strict=True) if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)
    try:
        import bitsandbytes  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"optimizer={name} needs bitsandbytes: pip install 'xwam[lowmem]'") from error
    kinds: Any = bitsandbytes.optim
    return (kinds.AdamW8bit if name == "adamw_8bit" else kinds.PagedAdamW8bit)(
        groups, lr=config.learning_rate, betas=BETAS
    )


def pairs(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Name, weight, and the optimiser's view of the piece that this process holds."""
    weights = trained(model)
    if not any(isinstance(weight, DTensor) for _, weight in weights):
        yield from ((name, weight, weight) for name, weight in weights)
        return
    mine = [p for group in optimizer.param_groups for p in group["params"]]
    for (name, weight), piece in zip(weights, mine, strict=True):
        yield name, weight, piece


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the weights by their gradients, which are gone afterwards."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    for _, weight, piece in pairs(model, optimizer):
        if piece is not weight and weight.grad is not None:
            piece.grad = local(weight.grad) if piece.numel() else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.zero_grad(set_to_none=True)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``first.NAME`` and ``second.NAME``, float32, lying as the weights do; zeros before the first step."""
    found = {}
    for name, weight, piece in pairs(model, optimizer):
        for order, value in zip(("first", "second"), _read(optimizer.state.get(piece, {}), piece), strict=True):
            found[f"{order}.{name}"] = shaped_like(value, weight)
    return found


def num_updates(optimizer: torch.optim.Optimizer) -> int:
    """How often the weights were changed: less than a run's steps where some had no finite gradient."""
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)


def set_moments(model: nn.Module, optimizer: torch.optim.Optimizer, values: dict[str, Tensor], num_steps: int) -> None:
    """The inverse of moments and of num_updates (``num_steps``). 8-bit optimisers round again."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, piece in enumerate(group["params"]):
            if not isinstance(optimizer, (torch.optim.AdamW, Muon)) and piece.numel():
                _bitsandbytes_state(optimizer, group, piece, group_index, index)
    for name, _, piece in pairs(model, optimizer):
        _write(optimizer, piece, [local(values[f"{order}.{name}"]) for order in ("first", "second")], num_steps)


def _read(state: dict[str, Any], piece: Tensor) -> list[Tensor]:
    if not state:
        return [torch.zeros_like(piece) for _ in range(2)]
    if "momentum_buffer" in state:
        return [state["momentum_buffer"], torch.zeros_like(piece)]
    if "exp_avg" in state:
        return [state["exp_avg"], state["exp_avg_sq"]]
    if state["state1"].dtype != torch.uint8:
        return [state["state1"], state["state2"]]
    from bitsandbytes.functional import dequantize_blockwise  # pyright: ignore[reportMissingImports]

    return [
        dequantize_blockwise(
            state[f"state{i}"].to(piece.device),
            absmax=state[f"absmax{i}"],
            code=state[f"qmap{i}"],
            blocksize=BLOCK_8BIT,
        ).view_as(piece)
        for i in (1, 2)
    ]


def _write(optimizer: torch.optim.Optimizer, piece: Tensor, values: list[Tensor], num_steps: int) -> None:
    if isinstance(optimizer, Muon) and any(piece is matrix for matrix in optimizer.matrices):
        optimizer.state[piece] = {"momentum_buffer": values[0]}
        return
    if isinstance(optimizer, (torch.optim.AdamW, Muon)):
        step = torch.tensor(float(num_steps), device=piece.device)
        optimizer.state[piece] = {"step": step, "exp_avg": values[0], "exp_avg_sq": values[1]}
        return
    if not piece.numel():
        return
    state = optimizer.state[piece]
    state["step"] = num_steps
    for i, value in enumerate(values, start=1):
        if state[f"state{i}"].dtype != torch.uint8:
            state[f"state{i}"].copy_(value)
            continue
        from bitsandbytes.functional import quantize_blockwise  # pyright: ignore[reportMissingImports]

        codes, scales = quantize_blockwise(value.float(), code=state[f"qmap{i}"], blocksize=BLOCK_8BIT)
        state[f"state{i}"].copy_(codes.view_as(piece))
        state[f"absmax{i}"].copy_(scales.absmax)


def _bitsandbytes_state(optimizer: Any, group: dict[str, Any], piece: Tensor, group_index: int, index: int) -> None:
    if not optimizer.state.get(piece):
        optimizer.init_state(group, piece, group_index, index)
