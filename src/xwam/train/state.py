"""What learns: the model as it is to be trained, the running average of its weights, the optimiser.

The model is built without storage, gets its adapters and its shards, and only then memory: a process never holds more
than its own piece. Fresh weights are the same however many processes there are.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from xwam.compile import compile_blocks
from xwam.config import Config
from xwam.model.shards import weight_files
from xwam.model.stored import safetensors_contents
from xwam.model.weights import check_names
from xwam.model.xwam import XWAM, init_weight
from xwam.train import lora, sharding
from xwam.train.checkpoint import TrainingState
from xwam.train.optimizers import make_optimizer, trained
from xwam.train.options import Setup
from xwam.train.peers import Peers
from xwam.train.precision import is_bfloat16, recompute_blocks
from xwam.train.rates import ema_decay_at


def make_state(config: Config, how: Setup, peers: Peers, device: torch.device, start: Path | None) -> TrainingState:
    """A model filled from the checkpoint ``start``, or drawn anew. Raises ValueError for LoRA without a start."""
    model = build_model(config, how, peers, device)
    if start is not None:
        _read_weights(model, start / "model.safetensors")
    elif how.lora_rank:
        raise ValueError(f"lora_rank={how.lora_rank}: adapters need weights to start from; give --start CHECKPOINT.")
    else:
        _draw_weights(model, config)
    _draw_adapters(model, config)
    average = {name: weight.detach().float().clone() for name, weight in trained(model)}
    return TrainingState(model, average, make_optimizer(model, config.train, how.optimizer))


def build_model(config: Config, how: Setup, peers: Peers, device: torch.device) -> XWAM:
    """The model with everything that is done to it from outside, its memory not yet filled."""
    in_bfloat16 = is_bfloat16(device, how.precision)
    shards = sharding.num_shards(how.shards, peers)
    with torch.device("meta"):
        model = lay_out(config, how, rest_in_bfloat16=in_bfloat16 and shards == 1)
    if config.train.compile:
        compile_blocks(model)
    if shards > 1:
        sharding.shard(model, peers, shards, device, in_bfloat16=in_bfloat16)
    return model.to_empty(device=device)


def lay_out(config: Config, how: Setup, *, rest_in_bfloat16: bool) -> XWAM:
    """The model with its adapters and recomputation. What does not learn needs no float32: half the memory."""
    model = XWAM(config.model)
    if how.lora_rank:
        lora.add_lora(model, how.lora_rank)
    if rest_in_bfloat16:
        to_bfloat16(model, resting_only=True)
    if how.recompute:
        recompute_blocks(model)
    return model


def to_bfloat16(model: nn.Module, *, resting_only: bool) -> None:
    """Matrices in bf16, in place; vectors and modulation tables are small and stay."""

    def rounded(name: str, weight: nn.Parameter) -> Tensor:
        stays = weight.ndim < 2 or name == "modulation" or (resting_only and weight.requires_grad)
        return weight.detach() if stays else weight.detach().to(torch.bfloat16)

    replace_weights(model, rounded)


def replace_weights(model: nn.Module, make: Callable[[str, nn.Parameter], Tensor]) -> None:
    """Put another tensor, made from the last part of its name and the old one, in the place of every weight."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(make(name, weight), requires_grad=weight.requires_grad))


@torch.no_grad()
def update_average(state: TrainingState, decay: float, now: int) -> None:
    """EMA of the weights."""
    decay = ema_decay_at(now, decay)
    for name, weight in trained(state.model):
        state.average[name].lerp_(weight.detach().float(), 1 - decay)


def averaged_weights(state: TrainingState, peers: Peers) -> dict[str, Tensor]:
    """The averaged weights of the whole model, adapters merged; all processes must ask, the main one is answered.

    What is put together from shards lies on the CPU: on a GPU that holds a piece of the model there may be no room.
    """
    is_sharded, named = sharding.is_sharded(state.model), {}
    for name, weight in state.model.named_parameters():
        value = sharding.whole(state.average.get(name, weight.detach()))
        if peers.is_main:
            named[name] = value.cpu() if is_sharded else value
    return lora.merge(named)


def _draw_weights(model: XWAM, config: Config) -> None:
    """As init_weights does, one whole tensor after the other."""
    generator = torch.Generator().manual_seed(config.train.seed)
    for name, weight in model.named_parameters():
        drawn = torch.empty(weight.shape)
        with torch.no_grad():
            init_weight(name, drawn, config.model.width, generator)
        sharding.put(weight, drawn)


def _draw_adapters(model: XWAM, config: Config) -> None:
    generator = torch.Generator().manual_seed(config.train.seed)
    for name, weight in model.named_parameters():
        if lora.is_adapter(name):
            drawn = torch.empty(weight.shape)
            with torch.no_grad():
                lora.draw_adapter(name, drawn, generator)
            sharding.put(weight, drawn)


def _read_weights(model: XWAM, path: Path) -> None:
    """Fill all but the adapters, tensor by tensor. Raises ValueError unless names and shapes are the model's."""
    wanted = {lora.plain_name(n): weight for n, weight in model.named_parameters() if not lora.is_adapter(n)}
    files = weight_files(path)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= {name: stored.shape for name, stored in safetensors_contents(file).items()}
    check_names({name: tuple(weight.shape) for name, weight in wanted.items()}, shapes, where=str(path))
    for name, value in _tensors(files):
        sharding.put(wanted[name], value)


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as stack:
        for file in files:
            opened = stack.enter_context(safe_open(file, framework="pt"))
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)
