"""Levels and mixing: ends, order, and what is given."""

import pytest
import torch

from xwam.config import NoiseConfig
from xwam.denoise.noise import add_noise, draw_levels, draw_prefix, keep_given, shift, with_clean_actions
from xwam.tensors import Given, Noisy


def config(draw: str, ratio: float = 0.5) -> NoiseConfig:
    return NoiseConfig(draw=draw, clean_action_ratio=ratio, shift=5.0, max_prefix=0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_asynchronous_levels_never_leave_the_video_cleaner_than_the_actions():
    levels = draw_levels(10_000, config("asynchronous"), generator())
    assert (levels.video >= levels.action).all()
    assert 0.47 < (levels.action == 0).float().mean() < 0.53
    assert levels.video.min() >= 0
    assert levels.video.max() <= 1


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_the_share_of_clean_actions_is_as_asked(ratio):
    levels = draw_levels(20_000, config("asynchronous", ratio), generator())
    assert abs((levels.action == 0).float().mean().item() - ratio) < 0.01


def test_the_alternatives_of_the_paper():
    synchronous = draw_levels(1000, config("synchronous"), generator())
    assert torch.equal(synchronous.video, synchronous.action)
    decoupled = draw_levels(1000, config("decoupled"), generator())
    assert 0.4 < (decoupled.video < decoupled.action).float().mean() < 0.6


def test_draws_repeat_with_their_generator():
    first, second = (draw_levels(8, config("asynchronous"), generator()) for _ in range(2))
    assert torch.equal(first.video, second.video)
    assert torch.equal(first.action, second.action)


def test_half_of_the_samples_have_no_prefix_and_all_lengths_are_as_frequent():
    prefix = draw_prefix(80_000, 8, generator())
    shares = torch.bincount(prefix, minlength=10) / len(prefix)
    torch.testing.assert_close(shares, torch.tensor([0.5] + [0.5 / 8] * 8 + [0.0]), atol=0.005, rtol=0)


def test_without_prefixes_nothing_is_drawn():
    source = generator()
    before = source.get_state()
    assert draw_prefix(8, 0, source) == 0
    assert torch.equal(source.get_state(), before)


def test_shift_keeps_the_ends_and_pushes_up():
    sigma = torch.linspace(0, 1, 11)
    shifted = shift(sigma, 5.0)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] > sigma[1:-1]).all()
    assert torch.equal(shift(sigma, 1.0), sigma)


def test_add_noise_ends_and_middle():
    clean, noise = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    mixed = add_noise(clean, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(mixed[0], clean[0])
    assert torch.equal(mixed[1], noise[1])
    torch.testing.assert_close(mixed[2], 0.75 * clean[2] + 0.25 * noise[2])


def test_a_step_along_the_velocity_from_anywhere_ends_at_the_data():
    clean, noise = torch.randn(3, 4), torch.randn(3, 4)
    sigma = torch.rand(3)
    torch.testing.assert_close(add_noise(clean, noise, sigma) - sigma[:, None] * (noise - clean), clean)


@pytest.mark.parametrize("actions", [0, 2, torch.tensor([1, 3])])
def test_keep_given(actions):
    clean = Noisy(torch.zeros(2, 1, 3, 1, 1, 1), torch.zeros(2, 4, 5), torch.zeros(2, 6, 7))
    noisy = Noisy(*(torch.ones_like(x) for x in clean))
    kept = keep_given(noisy, clean, Given(frames=1, states=2, actions=actions))
    assert kept.video[0, 0, :, 0, 0, 0].tolist() == [0, 1, 1]
    assert kept.state[0, :, 0].tolist() == [0, 0, 1, 1]
    counts = actions.tolist() if isinstance(actions, torch.Tensor) else [actions] * 2
    assert kept.action[:, :, 0].sum(dim=1).tolist() == [6 - count for count in counts]
    assert kept.action[:, 0, 0].tolist() == [0.0 if count else 1.0 for count in counts]


def test_chosen_samples_get_clean_actions_as_the_draw_itself_gives_them():
    levels = draw_levels(20_000, config("asynchronous", 0.3), generator())
    chosen = torch.arange(20_000) % 2 == 0
    got = with_clean_actions(levels, chosen)
    assert (got.action[chosen] == 0).all()
    for was, now in zip(levels, got, strict=True):
        assert torch.equal(was[~chosen], now[~chosen])
    by_itself = levels.video[levels.action == 0]  # uniform before the shift
    for share in (0.1, 0.5, 0.9):
        assert got.video[chosen].quantile(share) == pytest.approx(by_itself.quantile(share).item(), abs=0.02)
