"""Going on from a chunk that is still being played: given, or steered."""

import math

import pytest
import torch

from tests.denoise.test_sampler import CuriousModel, PerfectModel, random_noisy
from xwam.config import DenoiseConfig
from xwam.denoise.noise import keep_given
from xwam.denoise.prefix import MAX_PULL, begin, pull, soft_mask, steer
from xwam.denoise.sampler import denoise
from xwam.tensors import Given, NoiseLevels, Noisy, Prefix, Velocity

CONFIG = DenoiseConfig(num_video_steps=12, num_action_steps=10, shift=5.0, guidance=1.0)
HORIZON = 8


def make_prefix(known: tuple[int, int], committed: tuple[int, int], seed: int = 3) -> Prefix:
    action = random_noisy(seed).action
    known_, committed_ = torch.tensor(known), torch.tensor(committed)
    return Prefix(
        torch.where(torch.arange(HORIZON)[None, :, None] < known_[:, None, None], action, 0), known_, committed_
    )


def toy() -> tuple[Noisy, Noisy, Noisy]:
    clean, noise = random_noisy(0), random_noisy(1)
    return clean, noise, keep_given(noise, clean, Given())


class Shrinking:
    """Believes that the clean actions are a tenth of the noisy ones: d clean / d action is known exactly."""

    def __call__(self, noisy, levels, *, depth, video):
        sigma = levels.action.float()[:, None, None]
        return Velocity(
            video=torch.zeros_like(noisy.video) if video else None,
            depth=None,
            state=torch.zeros_like(noisy.state),
            action=0.9 * noisy.action / sigma,
        )


def test_the_mask_is_one_then_falls_exponentially_to_zero():
    (mask,) = soft_mask(torch.tensor([6]), torch.tensor([2]), HORIZON)
    left = [(6 - i) / (6 - 2 + 1) for i in range(2, 6)]
    expected = [1.0, 1.0, *(c * math.expm1(c) / (math.e - 1) for c in left), 0.0, 0.0]
    torch.testing.assert_close(mask, torch.tensor(expected))
    assert (mask.diff() <= 0).all()
    hard, nothing = soft_mask(torch.tensor([3, 0]), torch.tensor([3, 0]), HORIZON)
    assert hard.tolist() == [1.0] * 3 + [0.0] * 5
    assert nothing.tolist() == [0.0] * 8


def test_the_pull_is_the_published_one_and_bounded():
    # With tau = 1 - sigma: (1 - tau) / tau / r^2, where r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2).
    for sigma in (0.3, 0.5, 0.7):
        tau = 1 - sigma
        assert pull(sigma) == pytest.approx((1 - tau) / tau * (tau**2 + (1 - tau) ** 2) / (1 - tau) ** 2)
    assert [pull(sigma) for sigma in (0.0, 1e-9, 0.9998, 1.0)] == [pytest.approx(MAX_PULL)] * 4


def test_the_correction_goes_through_the_network():
    prefix = make_prefix((8, 8), (8, 8))
    noisy, sigma = random_noisy(5), 0.5
    levels = NoiseLevels(*torch.full((2, 2), sigma, dtype=torch.float64))
    plain = Shrinking()(noisy, levels, depth=False, video=True)
    found = steer(Shrinking(), prefix, sigma)(noisy, levels, depth=False, video=True)
    jacobian = 0.1
    error = prefix.action - jacobian * noisy.action
    torch.testing.assert_close(found.action, plain.action - 2.0 * jacobian * error)  # the pull at sigma 0.5 is 2
    assert torch.equal(found.state, plain.state)
    assert not found.action.requires_grad


def test_a_perfect_model_is_left_alone_when_it_agrees_with_the_prefix():
    clean, noise, _ = toy()
    level = 0.9997998476028442  # where schedules start
    start = Noisy(*((1 - level) * c + level * n for c, n in zip(clean, noise, strict=True)))
    start = keep_given(start, clean, Given())
    prefix = Prefix(clean.action, torch.tensor([6, 8]), torch.tensor([3, 0]))
    answer = next(denoise(PerfectModel(clean, noise), start, config=CONFIG, given=Given(), steered_by=prefix))
    torch.testing.assert_close(answer.action, clean.action, rtol=1e-4, atol=1e-5)


def test_steering_brings_known_actions_near_and_leaves_the_others():
    clean, noise, start = toy()
    prefix = make_prefix((6, 4), (3, 2))
    plain = next(denoise(PerfectModel(clean, noise), start, config=CONFIG, given=Given()))
    model = PerfectModel(clean, noise)
    steered, world = denoise(model, start, config=CONFIG, given=Given(), steered_by=prefix)
    for row, (known, committed) in enumerate(((6, 3), (4, 2))):
        assert torch.equal(steered.action[row, :committed], prefix.action[row, :committed]), "played whatever is said"
        near, far = slice(committed, committed + 1), slice(known, None)
        gap, before = ((x.action[row] - prefix.action[row]).abs() for x in (steered, plain))
        assert gap[near].mean() < 0.5 * before[near].mean()
        assert torch.equal(steered.action[row, far], plain.action[row, far])
    assert torch.equal(world.action, steered.action)
    assert len(model.calls) == CONFIG.num_video_steps


def test_without_a_prefix_steering_changes_no_bit():
    clean, noise, start = toy()
    nothing = make_prefix((0, 0), (0, 0))
    plain, steered = (
        next(denoise(CuriousModel(clean, noise), start, config=CONFIG, given=Given(), steered_by=prefix))
        for prefix in (None, nothing)
    )
    assert torch.equal(plain.action, steered.action)


@pytest.mark.parametrize(
    ("max_prefix", "committed", "given", "steered"),
    [
        (8, (3, 0), [3, 0], None),  # trained so: all is given
        (2, (3, 2), [3, 2], None),  # longer than it was trained with: given, too
        (0, (3, 0), [0, 0], [6, 4]),  # not trained so: the soft part steers even where nothing is committed
    ],
)
def test_what_is_given_and_what_steers(max_prefix, committed, given, steered):
    _, _, start = toy()
    prefix = make_prefix((6, 4), committed)
    begun, found, rest = begin(start, Given(), prefix, max_prefix=max_prefix)
    assert found.actions.tolist() == given
    assert (None if rest is None else rest.known.tolist()) == steered
    for row, count in enumerate(given):
        assert torch.equal(begun.action[row, :count], prefix.action[row, :count])
        assert torch.equal(begun.action[row, count:], start.action[row, count:])


def test_a_network_without_gradients_is_never_steered():
    """It would be pulled around its blocks, not through them; what is given needs no gradient."""
    _, _, start = toy()
    prefix = make_prefix((6, 0), (3, 0))
    with pytest.raises(ValueError, match="carries no gradient"):
        begin(start, Given(), prefix, max_prefix=0, can_steer=False)
    assert begin(start, Given(), prefix, max_prefix=8, can_steer=False)[2] is None
    assert begin(start, Given(), make_prefix((0, 0), (0, 0)), max_prefix=0, can_steer=False)[2] is None
