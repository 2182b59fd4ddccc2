"""A real training step of any size on random weights and latents: samples per second, and memory against the plan.

    python benchmarks/real_step.py wan22_5b --lora-rank 16 --recompute --optimizer adamw_8bit --batch-size 4
    python benchmarks/real_step.py tiny --optimizer muon --batch-size 512 --compile

No data and no checkpoint are needed. On CUDA the peak is what torch's allocator handed out; ``xwam train … --plan``
says the same number beforehand. On a CPU only time is measured (memory: tests/train/test_plan.py). Prints a table and
writes JSON.
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional, arg

from xwam.bench.training import samples_per_second_limit
from xwam.config import Config
from xwam.evaluate.study import markdown_table
from xwam.files import write_json
from xwam.presets import preset
from xwam.tensors import Batch
from xwam.train import step
from xwam.train.checkpoint import TrainingState
from xwam.train.descend import change_weights, compute_gradients
from xwam.train.lora import draw_adapter, is_adapter
from xwam.train.optimizers import make_optimizer, trained
from xwam.train.options import Setup
from xwam.train.peers import Peers
from xwam.train.plan import empty_batch, make_plan
from xwam.train.precision import is_bfloat16
from xwam.train.state import build_model

ALONE = Peers(0, 1)


@dataclass(frozen=True, kw_only=True)
class RealStep:
    """What is trained, how, and how often."""

    preset: Annotated[str, Positional] = "wan22_5b"
    batch_size: int = 4
    steps: int = 5  # that are timed, after two that are not
    compile: bool = False  # of the blocks; the first step takes as long as it takes
    device: str = "cuda"
    out: Path = Path("runs/bench/step.json")
    how: Annotated[Setup, arg(name="")] = field(default_factory=Setup)


def random_state(config: Config, how: Setup, device: torch.device) -> TrainingState:
    """As xwam.train.state.make_state, every weight drawn where it lies: also LoRA needs no checkpoint."""
    model = build_model(config, how, ALONE, device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if is_adapter(name):
                drawn = torch.empty(weight.shape)
                draw_adapter(name, drawn, torch.Generator().manual_seed(0))
                weight.copy_(drawn)
            else:
                weight.normal_(0, 0.02)
    average = {name: weight.detach().float().clone() for name, weight in trained(model)}
    return TrainingState(model, average, make_optimizer(model, config.train, how.optimizer))


def random_batch(config: Config, device: torch.device) -> Batch:
    """Noise in the place of latents, states and actions."""
    batch = empty_batch(config, config.train.batch_size)
    return Batch(*((x if x.dtype == torch.bool else torch.randn(x.shape)).to(device) for x in batch))


def run(settings: RealStep) -> dict:
    """Time the steps, read the memory, write the numbers."""
    config, how, device = preset(settings.preset), settings.how, torch.device(settings.device)
    config = replace(config, train=replace(config.train, batch_size=settings.batch_size, compile=settings.compile))
    state, batch = random_state(config, how, device), random_batch(config, device)
    model: Any = state.model
    seconds = []
    for now in range(settings.steps + 2):
        _wait_for(device)
        began = time.perf_counter()
        drawn = step.draw(batch, config, step.generator_for(0, now, device))
        compute_gradients(model, batch, drawn, batch.prompt[0], config, ALONE, how)
        change_weights(state, config, ALONE, now)
        _wait_for(device)
        seconds.append(time.perf_counter() - began)
    rate = settings.batch_size / median(seconds[2:])
    limit = samples_per_second_limit(config, device, in_bfloat16=is_bfloat16(device, how.precision))
    found = {"seconds": median(seconds[2:]), "samples_per_second": rate, "matrix_rate_share": rate / limit}
    found["planned_peak_gb"] = make_plan(config, how, device=settings.device).peak / 1e9
    if device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    told = {
        "preset": config.name,
        "batch_size": settings.batch_size,
        "compile": settings.compile,
        "machine": machine,
        "setup": asdict(how),
    }
    write_json(settings.out, told | found)
    return told | found


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    told = run(tyro.cli(RealStep, description=__doc__))
    print(json.dumps(told["setup"]))
    rows = [[name, f"{value:.3g}" if isinstance(value, float) else str(value)] for name, value in told.items()]
    print(markdown_table(["", ""], [row for row in rows if row[0] != "setup"]))
