"""How close is a training step to the arithmetic? ``PYTHONPATH=. python benchmarks/training_step.py [PRESET]``.

Forward, backward and optimiser step on random latents, in turns on one thread: *naive* (eager blocks, a time embedding
for every token), *ours* in eager mode, and compiled; then compiled in bf16. *Naive, no cache* also encodes the clips of
every batch, video and depth, in float32, as a loop without a latent cache does. Shares are of the matrix-product rate
of the same precision in the same run, counting the network's own operations; seconds are CPU seconds.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.train.encoded import EncodedClips
from xwam.bench.training import operations_per_sample, samples_per_second_limit
from xwam.compile import compile_blocks
from xwam.model import layers, tokens
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
from xwam.train import step
from xwam.train.optimizers import make_optimizer
from xwam.train.precision import encoder_of, matrix_precision


def naive_per_token(rows, levels):
    """One row per token, gathered; its gradient is a scatter."""
    index = levels.expand(len(rows), -1)[..., None].expand(-1, -1, rows.shape[-1])
    return rows.gather(1, index).clone()


def make(config, *, is_compiled: bool):
    model = XWAM(config.model)
    init_weights(model, torch.Generator().manual_seed(0))
    if is_compiled:
        compile_blocks(model)
    return model, make_optimizer(model, config.train, "adamw")


def run_step(state, batch, empty_prompt, config, precision) -> float:
    model, optimizer = state
    drawn = step.draw(batch, config, step.generator_for(0, 0))
    with matrix_precision(torch.device("cpu"), precision):
        terms = step.compute_terms(model, batch, drawn, empty_prompt)
    loss: Any = sum(term.sum / term.count.clamp(min=1) for term in terms.values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def seconds_to_encode(config, batch_size: int) -> float:
    """What the latents of one batch cost: every view's clip, in colour and as depth, as training itself encodes."""
    clip = config.clip
    encode = encoder_of(VideoVae(config.vae).eval(), torch.device("cpu"), "float32")
    films = torch.rand(batch_size * config.model.num_views, 3, clip.num_frames, clip.height_px, clip.width_px)
    num_kinds = 2 if config.model.has_depth else 1
    before = time.process_time()
    for _ in range(num_kinds):
        encode(films * 2 - 1)
    return time.process_time() - before


def compare(name: str, batch_size: int, turns: int) -> dict:
    torch.set_num_threads(1)
    config = preset(name)
    config = replace(config, train=replace(config.train, batch_size=batch_size))
    data = EncodedClips(config, batch_size)
    batch = data.batch(torch.arange(batch_size).numpy(), 0)
    ways = {
        "naive": (make(config, is_compiled=False), "float32"),
        "eager": (make(config, is_compiled=False), "float32"),
        "compiled": (make(config, is_compiled=True), "float32"),
        "compiled, bf16": (make(config, is_compiled=True), "bfloat16"),
    }
    seconds = {way: [] for way in ways}
    for turn in range(turns + 1):  # the first warms up
        for way, (state, precision) in ways.items():
            layers.per_token = naive_per_token if way == "naive" else tokens.per_token
            before = time.process_time()
            run_step(state, batch, data.empty_prompt, config, precision)
            if turn:
                seconds[way].append(time.process_time() - before)
    encoding = [seconds_to_encode(config, batch_size) for _ in range(turns)]
    ways["naive, no cache"] = ways["naive"]
    seconds["naive, no cache"] = [a + b for a, b in zip(seconds["naive"], encoding, strict=True)]
    rates = {}
    for way, (_, precision) in ways.items():
        limit = samples_per_second_limit(config, torch.device("cpu"), in_bfloat16=precision == "bfloat16")
        rate = batch_size / median(seconds[way])
        rates[way] = {"samples per CPU second": round(rate, 2), "share of matrix rate": round(rate / limit, 3)}
    return {
        "preset": name,
        "batch_size": batch_size,
        "GFLOP per sample": round(operations_per_sample(config) / 1e9, 2),
        **rates,
        "compiled over naive": round(median(seconds["naive"]) / median(seconds["compiled"]), 2),
        "compiled bf16 over float32 naive": round(median(seconds["naive"]) / median(seconds["compiled, bf16"]), 2),
        "compiled over naive, no cache": round(median(seconds["naive, no cache"]) / median(seconds["compiled"]), 2),
        "compiled bf16 over float32 naive, no cache": round(
            median(seconds["naive, no cache"]) / median(seconds["compiled, bf16"]), 2
        ),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="tiny")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = compare(arguments.preset, arguments.batch_size, arguments.turns)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
