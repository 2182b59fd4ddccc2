"""How much less work than the release's way? ``python benchmarks/against_release.py [PRESET] [--compile]``.

The release itself is not run here. ``Naive`` below is a reconstruction, in plain torch on our weights, of how the
published code is described to work (docs/fidelity.md):

- nine copies of the observed frame go through the autoencoder, all kernel slices multiplied;
- every token has its own time embedding: sinusoid in float64, MLPs in float32, six rows per token, rebuilt per block;
- rotary positions as complex128 numbers, built and applied in every block;
- keys and values of all 512 prompt rows recomputed in every block of every step;
- depth (in full requests) and the video's head computed in every step;
- one pass per step at guidance 1, so that guidance is not what is compared;
- eager throughout: with ``--compile`` ours alone is compiled, and the ratio has that in it.

Both answer the same requests on the same machine in turns; their actions must agree. What counts is the ratio of CPU
seconds (``time.process_time``): on a shared machine, times alone mean little.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional

from xwam import encode
from xwam.bench.clock import matrix_rate
from xwam.bench.operations import count_operations, inputs_of, product_shapes
from xwam.bench.subject import random_observation, random_policy
from xwam.compile import compiled, num_programs, warm_up
from xwam.denoise.sampler import ActionsReady, WorldReady, denoise
from xwam.model import rope, tokens
from xwam.policy import Policy, start_noise
from xwam.presets import preset
from xwam.tensors import Given, Velocity


class Naive:
    """The release's way, as far as it is published, on the weights of a policy of ours."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.config = policy, policy.config
        self.model = policy.networks.transformer
        self.vae: Any = AutoencoderKLWan.from_config(policy.networks.vae.vae.config)
        self.vae.eval().load_state_dict(policy.networks.vae.vae.state_dict())

    @torch.no_grad()
    def request(self, seed: int, *, with_world: bool) -> tuple[ActionsReady, Tensor | None]:
        """Normalised actions, and the video with its depth."""
        policy, config = self.policy, self.config
        observation = random_observation(policy, 0)
        images, state = encode.encode_observation(observation, config.view_names, config.clip, policy.normalizer)
        frames = images.expand(-1, -1, config.clip.num_frames, -1, -1)
        latents = torch.cat([self._encode(view[None]) for view in frames])[:, :, :1]
        start = start_noise(config, [seed], (latents.shape[-2], latents.shape[-1]))
        start.video[:, :, :1] = latents.movedim(0, 2)[None]
        start.state[:, 0] = state
        context = policy.encode_prompts([observation.instruction])

        def call(noisy, levels, *, depth, video):
            return Velocity(*self.forward(*noisy, *levels, context=context, depth=with_world))

        events = denoise(call, start, config=config.denoise, given=Given(), actions_only=not with_world)
        actions, *later = events
        assert isinstance(actions, ActionsReady)
        if not with_world:
            return actions, None
        (world,) = later
        assert isinstance(world, WorldReady)
        assert world.depth is not None
        both = torch.cat([world.video, world.depth])
        films = [self._decode(both[i : i + 1, :, :, v]) for i in range(2) for v in range(both.shape[3])]
        return actions, torch.cat(films)

    def forward(self, video, state, action, video_sigma, action_sigma, context, *, depth):
        model = self.model
        grid = tokens.grid_of(video, state, action, self.config.model.patch_size)
        num_video = grid.sections[0]
        levels = tokens.token_levels(grid, 1, 1, 0, video.device)
        sigma = torch.stack([video_sigma, action_sigma, torch.zeros_like(video_sigma)], dim=1)
        timestep = 1000 * sigma.gather(1, levels.expand(len(sigma), -1))  # one per token
        half = self.config.model.sinusoid_width // 2
        angle = timestep[..., None] * 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
        head_time = model.time_embedding(torch.cat([angle.cos(), angle.sin()], dim=-1).float())
        time_rows = model.time_projection(head_time).unflatten(-1, (6, -1))
        x = model.embed_video(video, None)
        x = torch.cat([x, model.action_encoder(action), model.proprio_encoder(state)], dim=1)
        text, blocks = model.text_embedding(context), list(model.blocks)
        copies = model.depth_blocks if depth else []
        first = len(blocks) - len(copies)
        for block in blocks[:first]:
            x, _ = self._block(block, x, time_rows, grid, text)
        depth_x = x[:, :num_video]
        for block, copy in zip(blocks[first:], copies, strict=True):
            x, seen = self._block(block, x, time_rows, grid, text)
            depth_x, _ = self._block(copy, depth_x, time_rows[:, :num_video], grid, text, seen)
        parts = x.split(list(grid.sections), dim=1)
        return (
            self._head(model.head, parts[0], head_time, grid),
            self._head(model.extra_heads[0], depth_x, head_time, grid) if depth else None,
            model.proprio_decoder(parts[2]),
            model.action_decoder(parts[1]),
        )

    def _block(self, block, x, time_rows, grid, text, also=None):
        rows = (block.modulation.unsqueeze(1) + time_rows).unbind(2)
        shift, scale, gate, shift2, scale2, gate2 = rows
        y = functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        query, key, value = self._heads(block.self_attn, y, y)
        query, key = self._rotated(query, grid), self._rotated(key, grid)
        seen = (
            (key, value) if also is None else tuple(torch.cat(p, dim=1) for p in zip((key, value), also, strict=True))
        )
        x = x + gate * self._attend(block.self_attn, query, *seen)
        query, *of_text = self._heads(block.cross_attn, block.norm3(x), text)
        x = x + self._attend(block.cross_attn, query, *of_text)
        y = functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * block.ffn(y), (key, value)

    def _heads(self, attention, x, seen):
        split = (attention.num_heads, -1)
        query = attention.norm_q(attention.q(x)).unflatten(-1, split)
        key = attention.norm_k(attention.k(seen)).unflatten(-1, split)
        return query, key, attention.v(seen).unflatten(-1, split)

    def _rotated(self, x, grid):
        """Complex numbers in double precision, built anew each time."""
        config = self.config.model
        position = rope.positions(grid, config.frames_per_latent, config.actions_per_frame)[: x.shape[1]]
        angle = rope.angles(position, config.width // config.num_heads)
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2).float()

    def _attend(self, attention, query, key, value):
        found = functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (query, key, value)))
        return attention.o(found.transpose(1, 2).flatten(-2))

    def _head(self, head, x, time_rows, grid):
        shift, scale = (head.modulation.unsqueeze(1) + time_rows[:, : x.shape[1], None]).unbind(2)
        x = functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return tokens.unpatchify(head.head(x), grid, self.config.model.patch_size)

    def _encode(self, video):
        return self.policy.networks.vae.normalize(self.vae.encode(video).latent_dist.mean)

    def _decode(self, latents):
        return self.vae.decode(self.policy.networks.vae.denormalize(latents)).sample


def cpu_seconds(function):
    before = time.process_time()
    result = function()
    return time.process_time() - before, result


def ours(policy: Policy, seed: int, *, with_world: bool):
    return list(policy.predict(random_observation(policy, 0), seed=seed, actions_only=not with_world))


def compare(name: str, *, is_compiled: bool, turns: int, with_world: bool) -> dict:
    torch.set_num_threads(1)
    config = preset(name)
    policy = random_policy(config)
    with torch.no_grad():  # biases and tables start at zero, which would hide mistakes
        generator = torch.Generator().manual_seed(1)
        for weight in policy.networks.transformer.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    naive = Naive(policy)
    context = policy.encode_prompts([random_observation(policy, 0).instruction])
    inputs = inputs_of(config, 1, torch.device("cpu"))
    report = {"preset": name, "turns": turns, "compiled": is_compiled, "reference": "reconstruction from the paper"}
    if is_compiled:
        report["warm_up"] = warm_up(compiled(policy))._asdict()
    else:
        ours(policy, 0, with_world=False)
    programs = num_programs()
    rates = matrix_rate(product_shapes(config)[:4], torch.device("cpu"), torch.float32)
    naive.request(0, with_world=with_world)  # as ours: once untimed
    seconds = {"release's way": [], "ours": [], "release's step": [], "our step": []}
    prompt = policy._prepared.prepare(policy.networks.transformer, ["press the button"], policy.encode_prompts)
    for turn in range(turns):
        spent, (theirs, film) = cpu_seconds(lambda t=turn: naive.request(t, with_world=with_world))
        seconds["release's way"].append(spent)
        spent, answers = cpu_seconds(lambda t=turn: ours(policy, t, with_world=with_world))
        seconds["ours"].append(spent)
        action = policy.normalizer.denormalize_action(theirs.action[0].numpy())
        error = np.abs(answers[0].action - action).max() / np.abs(action).max()
        assert error < 1e-4, f"the actions differ by {error:.1e} of their peak"
        report["action_error"] = max(report.get("action_error", 0.0), float(error))
        if film is not None:
            with torch.no_grad():
                images = encode.tensor_to_video(film[: len(config.view_names)])[:, 1:]
            video = answers[1].video
            assert video is not None
            off = int(np.abs(images.astype(int) - video[:, 1:].astype(int)).max())
            report["video_error_bytes"] = max(report.get("video_error_bytes", 0), off)
        with torch.no_grad():
            model = policy.networks.transformer
            spent, _ = cpu_seconds(lambda: naive.forward(*inputs, context=context, depth=with_world))
            seconds["release's step"].append(spent)
            seconds["our step"].append(cpu_seconds(lambda m=model: m(*inputs, prompt, depth=with_world))[0])
        for shape, rate in matrix_rate(product_shapes(config)[:4], torch.device("cpu"), torch.float32).items():
            rates[shape] = max(rates[shape], rate)
    assert num_programs() == programs, "something was compiled after the warm-up"
    report["cpu_seconds"] = {name: round(median(values), 3) for name, values in seconds.items()}
    report["ratio of requests"] = round(
        median(a / b for a, b in zip(seconds["release's way"], seconds["ours"], strict=True)), 2
    )
    report["ratio of steps"] = round(
        median(a / b for a, b in zip(seconds["release's step"], seconds["our step"], strict=True)), 2
    )
    rate = max(rates.values())
    report["matrix rate, GFLOP/s"] = round(rate / 1e9, 1)
    operations = count_operations(config)
    step = (operations.step_with_depth if with_world else operations.step) / median(seconds["our step"])
    report["share of the matrix rate, our step"] = round(step / rate, 3)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="bench_small")
    parser.add_argument("--turns", type=int, default=5, help="3 or more say something")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--world", action="store_true", help="full 4D requests")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = compare(arguments.preset, is_compiled=arguments.compile, turns=arguments.turns, with_world=arguments.world)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
