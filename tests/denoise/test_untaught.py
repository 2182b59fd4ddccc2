"""Slots and cameras that a robot lacks end where training had them, whatever the network says of them."""

from dataclasses import replace

import pytest
import torch

from tests.examples import make_normalizer
from xwam.config import DenoiseConfig
from xwam.denoise.sampler import denoise
from xwam.denoise.untaught import kept_on_line, lacking_of
from xwam.presets import preset
from xwam.tensors import Given, NoiseLevels, Noisy, Velocity

CONFIG = preset("debug")
LAYOUT = make_normalizer().layout
CPU = torch.device("cpu")
CLOSE = 2e-3  # the network's levels are whole timesteps


def wild(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
    """A network that pushes everything its own way, by what it sees."""
    return Velocity(3 * noisy.video + 1 if video else None, None, 2 * noisy.state - 1, noisy.action + 4)


def encoder(film):
    """Latents that tell frames apart."""
    frames = 1 + (CONFIG.clip.num_frames - 1) // 4
    return torch.arange(frames).float()[None, None, :, None, None].expand(1, 4, frames, 2, 2)


def start(batch: int = 2) -> Noisy:
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 4, 2, 3, 2, 2), (batch, 5, LAYOUT.state_width), (batch, 16, LAYOUT.action_width)
    return Noisy(*(torch.randn(shape, generator=generator) for shape in shapes))


@pytest.mark.parametrize("steps", [(1, 1), (2, 4), (5, 10)])
def test_what_is_lacking_ends_where_training_had_it(steps):
    config = DenoiseConfig(num_action_steps=steps[0], num_video_steps=steps[1], shift=5.0, guidance=1.0)
    noise, given = start(), Given(frames=1, states=1)
    lacking = lacking_of(CONFIG, LAYOUT, {"right"}, encoder, CPU)
    *_, plain = denoise(wild, noise, config=config, given=given)
    *_, held = denoise(kept_on_line(wild, noise, lacking), noise, config=config, given=given)
    unused = torch.from_numpy(~LAYOUT.action_mask)
    assert unused.any()
    torch.testing.assert_close(held.action[..., unused], torch.zeros_like(held.action[..., unused]), atol=CLOSE, rtol=0)
    torch.testing.assert_close(held.action[..., ~unused], plain.action[..., ~unused])
    unused = torch.from_numpy(~LAYOUT.state_mask)
    later = held.state[:, 1:, unused]
    torch.testing.assert_close(later, torch.zeros_like(later), atol=CLOSE, rtol=0)
    (view,) = lacking.views.tolist()
    assert CONFIG.view_names[view] == "right"
    grey = lacking.grey[None].expand(2, -1, -1, -1, -1)
    torch.testing.assert_close(held.video[:, :, 1:, view], grey[:, :, 1:], atol=CLOSE, rtol=0)
    others = [place for place in range(3) if place != view]
    torch.testing.assert_close(held.video[:, :, :, others], plain.video[:, :, :, others])
    torch.testing.assert_close(held.video[:, :, :1], noise.video[:, :, :1])


def test_nothing_is_held_for_who_lacks_nothing_or_wants_it_as_published():
    everything = replace(
        LAYOUT, **{w: tuple(replace(p, is_used=True) for p in vars(LAYOUT)[w]) for w in ("state", "action")}
    )
    assert lacking_of(CONFIG, everything, (), encoder, CPU) is None
    published = replace(CONFIG, denoise=replace(CONFIG.denoise, hold_lacking=False))
    assert lacking_of(published, LAYOUT, {"right"}, encoder, CPU) is None
    assert lacking_of(CONFIG, LAYOUT, (), encoder, CPU).grey is None
