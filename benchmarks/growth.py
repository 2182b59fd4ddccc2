"""How does the cost grow? ``python benchmarks/growth.py OUT.svg`` draws one panel per question.

A denoising step of preset ``tiny``, changed in one number at a time (views, pixels, batch, width), and whole requests
over their steps. Points are measured (CPU seconds of one thread, best of a few), lines are the exact operation counts
at the rate that the unchanged preset reached: where points leave their line, something besides arithmetic counts.
Needs ``pip install 'xwam[view]'``.
"""

import sys
import time
from dataclasses import replace

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

from xwam.bench.operations import count, count_operations, inputs_of
from xwam.bench.subject import random_observation, random_policy
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset

TINY = preset("tiny")


def with_model(**numbers):
    model = replace(TINY.model, **numbers)
    return replace(TINY, model=model, view_names=tuple(f"view {n}" for n in range(model.num_views)))


def with_pixels(pixels):
    return replace(TINY, clip=replace(TINY.clip, height_px=pixels, width_px=pixels))


def num_tokens(config):
    clip = config.clip
    video = config.num_latent_frames * config.model.num_views * (clip.height_px // 32) * (clip.width_px // 32)
    return video + clip.action_horizon + clip.num_states


QUESTIONS = {
    "views": {n: (with_model(num_views=n), 1) for n in (1, 2, 3, 4, 6)},
    "pixels along a side": {n: (with_pixels(n), 1) for n in (64, 128, 192, 256, 384)},
    "batch": {n: (TINY, n) for n in (1, 2, 4, 8)},
    "width": {n: (with_model(width=n, ffn_width=10 * n // 3, num_heads=n // 48), 1) for n in (96, 192, 384, 768)},
}


@torch.no_grad()
def step(config, batch_size):
    """Best CPU seconds of a step, and its exact operations."""
    model = XWAM(config.model)
    init_weights(model, torch.Generator().manual_seed(0))
    prompt = model.prompt_keys_values(torch.randn(batch_size, config.model.text_length, config.model.text_width))
    inputs = inputs_of(config, batch_size, torch.device("cpu"))
    best = float("inf")
    for _ in range(5):
        before = time.process_time()
        model(*inputs, prompt)
        best = min(best, time.process_time() - before)
    with torch.device("meta"):
        model, inputs = XWAM(config.model), inputs_of(config, batch_size, torch.device("meta"))
        prompt = model.prompt_keys_values(torch.empty(batch_size, config.model.text_length, config.model.text_width))
        return best, count(lambda: model(*inputs, prompt))


def requests(calls, rate):
    """CPU seconds of whole actions-only requests of so many steps, and what their operations would take."""
    policy, operations = random_policy(TINY), count_operations(TINY)
    measured, expected = [], []
    for number in calls:
        steps = replace(TINY.denoise, num_action_steps=number, num_video_steps=number)
        best = float("inf")
        for _ in range(3):
            before = time.process_time()
            list(policy.predict(random_observation(policy, 0), actions_only=True, steps=steps))
            best = min(best, time.process_time() - before)
        measured.append(best)
        expected.append(operations.actions(steps) / rate)
    return measured, expected


def draw(path):
    torch.set_num_threads(1)
    seconds, operations = step(TINY, 1)
    rate = operations / seconds
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    by_tokens = []
    for axis, (name, cases) in zip(axes.flat, QUESTIONS.items(), strict=False):
        points = {n: step(config, batch) for n, (config, batch) in cases.items()}
        if name in ("views", "pixels along a side"):
            by_tokens += [(num_tokens(cases[n][0]), *points[n]) for n in cases]
        panel(axis, name, list(points), [p[0] for p in points.values()], [p[1] / rate for p in points.values()])
    by_tokens.sort()
    panel(
        axes[1, 1],
        "tokens",
        [t for t, *_ in by_tokens],
        [s for _, s, _ in by_tokens],
        [o / rate for *_, o in by_tokens],
    )
    calls = [2, 5, 10, 20]
    panel(axes[1, 2], "steps of an actions-only request", calls, *requests(calls, rate))
    for axis in axes[:, 0]:
        axis.set_ylabel("CPU seconds, one thread")
    figure.suptitle(
        f"One denoising step, preset tiny, one number changed at a time ({rate / 1e9:.0f} GFLOP/s as it is)"
    )
    figure.savefig(path)
    for axis in axes.flat:
        for line in axis.get_lines():
            print(
                axis.get_xlabel(), line.get_label(), [(x, round(y, 4)) for x, y in zip(*line.get_data(), strict=True)]
            )


def panel(axis, name, numbers, measured, expected):
    axis.plot(numbers, expected, color="#888888", label="operations")
    axis.plot(numbers, measured, "o", color="#0060a0", label="measured")
    axis.set(xlabel=name, ylim=(0, None))
    axis.legend(frameon=False)


if __name__ == "__main__":
    draw(sys.argv[1])
