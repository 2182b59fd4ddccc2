"""What do fewer bits and reused steps cost, and what do they save? ``python benchmarks/fewer_bits.py [CHECKPOINT]``.

Against float32 on the same requests (images of noise and a real checkpoint's weights): the largest action error as a
share of the largest action, PSNR of the imagined images against float32's, and CPU seconds of one denoising step in
turns with float32's, compiled where ``--compile`` is given (int8 products are fast only then). ``reuse`` rows run the
network at every other step, or every third, of the world phase.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from xwam.bench.operations import inputs_of
from xwam.bench.subject import open_subject, random_observation
from xwam.compile import compile_blocks
from xwam.quantize import KINDS, quantized

REUSE = (2, 3)


def open_as(what: str, kind: str):
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    policy = open_subject(what, device="cpu", dtype=dtype, seed=0)
    return quantized(policy, kind) if kind in KINDS else policy


def answers(policy, seeds, steps):
    return [list(policy.predict(random_observation(policy, seed), seed=seed, steps=steps)) for seed in seeds]


def errors(found, expected) -> dict[str, float]:
    action = max(
        np.abs(f[0].action - e[0].action).max() / np.abs(e[0].action).max()
        for f, e in zip(found, expected, strict=True)
    )
    square = np.mean(
        [
            np.square(f[1].video[:, 1:].astype(float) - e[1].video[:, 1:]).mean()
            for f, e in zip(found, expected, strict=True)
        ]
    )
    return {
        "action error": float(f"{action:.2g}"),
        "PSNR, dB": round(float(10 * np.log10(255**2 / max(square, 1e-3))), 1),
    }


@torch.no_grad()
def step_seconds(policies: dict, turns: int) -> dict[str, float]:
    calls = {}
    for kind, policy in policies.items():
        model = policy.networks.transformer
        prompt = policy._prepared.prepare(model, ["press the button"], policy.encode_prompts)
        inputs = inputs_of(policy.config, 1, torch.device("cpu"))
        calls[kind] = lambda m=model, i=inputs, p=prompt: m(*i, p)
        calls[kind]()
    seconds = {kind: [] for kind in calls}
    for _ in range(turns):
        for kind, call in calls.items():
            before = time.process_time()
            call()
            seconds[kind].append(time.process_time() - before)
    return {kind: median(values) for kind, values in seconds.items()}


def compare(what: str, num_requests: int, num_video_steps: int, *, is_compiled: bool) -> dict:
    torch.set_num_threads(1)
    policies = {kind: open_as(what, kind) for kind in ("float32", "bfloat16", *KINDS)}
    plain = policies["float32"]
    steps = replace(plain.config.denoise, num_video_steps=num_video_steps)
    seeds = range(num_requests)
    expected = answers(plain, seeds, steps)
    rows = {"float32": {}}
    for every in REUSE:
        rows[f"reuse {every}"] = errors(answers(plain, seeds, replace(steps, reuse_every=every)), expected)
        later = num_video_steps - steps.num_action_steps
        rows[f"reuse {every}"]["calls of the world phase"] = f"{-(-(later - 1) // every) + 1} of {later}"
    for kind, policy in policies.items():
        if kind != "float32":
            rows[kind] = errors(answers(policy, seeds, steps), expected)
    if is_compiled:
        for policy in policies.values():
            compile_blocks(policy.networks.transformer)
    seconds = step_seconds(policies, turns=15)
    for kind, value in seconds.items():
        rows[kind]["step, speed against float32"] = round(seconds["float32"] / value, 2)
    return {
        "subject": what,
        "requests": num_requests,
        "video steps": num_video_steps,
        "compiled": is_compiled,
        "rows": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="?", default="checkpoints/tiny")
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--video-steps", type=int, default=50)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = compare(arguments.subject, arguments.requests, arguments.video_steps, is_compiled=arguments.compile)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
