"""The losses, computed by hand; padded steps and unused slots never count."""

import pytest
import torch

from xwam.denoise.losses import loss_terms, masked_losses, weighted_sum
from xwam.denoise.noise import Draw
from xwam.tensors import Batch, Given, NoiseLevels, Noisy, Velocity


def draw_of(levels: NoiseLevels, noise: Noisy, given: Given = Given()) -> Draw:  # noqa: B008 (it never changes)
    return Draw(levels, noise, torch.zeros(len(levels.video), dtype=torch.bool), given)


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        video=normal(2, 4, 3, 2, 2, 2),
        depth=normal(2, 4, 3, 2, 2, 2),
        state=normal(2, 3, 5),
        action=normal(2, 4, 6),
        video_mask=torch.ones(2, 3, 2, dtype=torch.bool),
        depth_mask=torch.ones(2, 3, 2, dtype=torch.bool),
        state_mask=torch.ones(2, 3, 5, dtype=torch.bool),
        action_mask=torch.ones(2, 4, 6, dtype=torch.bool),
        executed=torch.zeros(2, 4, 6),
        prompt=normal(2, 3, 8),
    )


def make_drawn(batch: Batch, action_levels: tuple[float, float] = (0.5, 0.5)) -> Draw:
    noise = Noisy(*(torch.randn_like(x) for x in (batch.video, batch.state, batch.action)))
    return draw_of(NoiseLevels(torch.tensor([0.9, 0.9]), torch.tensor(action_levels)), noise)


def off_by(batch: Batch, drawn: Draw, error: float) -> Velocity:
    """A prediction that is wrong by ``error`` everywhere."""
    return Velocity(
        video=drawn.noise.video - batch.video + error,
        depth=batch.depth + error,
        state=drawn.noise.state - batch.state + error,
        action=drawn.noise.action - batch.action + error,
    )


def values(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: pytest.approx(loss.item(), abs=1e-5) for name, loss in losses.items()}


def test_an_error_of_two_everywhere_costs_four():
    batch = make_batch()
    drawn = make_drawn(batch)
    assert values(masked_losses(off_by(batch, drawn, 2.0), batch, drawn)) == dict.fromkeys(
        ("video", "state", "action", "depth"), 4.0
    )


def test_given_frames_and_states_do_not_count_but_depth_of_frame_0_does():
    batch = make_batch()
    drawn = make_drawn(batch)
    predicted = off_by(batch, drawn, 0.0)
    predicted.video[:, :, 0] += 9
    predicted.state[:, 0] += 9
    predicted.depth[:, :, 0] += 3
    assert values(masked_losses(predicted, batch, drawn)) == {"video": 0, "state": 0, "action": 0, "depth": 3}


def test_actions_of_a_prefix_do_not_count_nor_train():
    batch = make_batch()
    drawn = make_drawn(batch)._replace(given=Given(actions=torch.tensor([3, 0])))
    predicted = off_by(batch, drawn, 0.0)
    predicted.action[0, :3] += 9
    assert values(masked_losses(predicted, batch, drawn))["action"] == 0
    predicted.action[0, 3] += 5
    predicted.action.requires_grad_()
    loss = masked_losses(predicted, batch, drawn)["action"]
    assert loss.item() == pytest.approx(25 * 6 / (6 + 24)), "one action of sample 0 counts, all four of sample 1"
    loss.backward()
    assert predicted.action.grad[0, :3].abs().max() == 0
    assert predicted.action.grad[0, 3].abs().min() > 0


def test_samples_with_clean_actions_do_not_count():
    batch = make_batch()
    drawn = make_drawn(batch, action_levels=(0.0, 0.5))
    predicted = off_by(batch, drawn, 1.0)
    predicted.action[0] += 9
    predicted.state[0] += 9
    assert values(masked_losses(predicted, batch, drawn)) == dict.fromkeys(("video", "state", "action", "depth"), 1.0)
    everything_clean = make_drawn(batch, action_levels=(0.0, 0.0))
    losses = masked_losses(off_by(batch, everything_clean, 1.0), batch, everything_clean)
    assert values(losses) == {"video": 1, "state": 0, "action": 0, "depth": 1}


@pytest.mark.parametrize("garbage", [9.0, float("inf"), float("nan")])
def test_what_is_masked_never_counts_nor_trains(garbage):
    batch = make_batch()
    batch.video_mask[0, 2] = False
    batch.depth_mask[1, :, 1] = False
    batch.state_mask[:, 2] = False
    batch.action_mask[:, :, 3:] = False
    drawn = make_drawn(batch)
    predicted = off_by(batch, drawn, 1.0)
    batch.video[0, :, 2] = garbage
    batch.depth[1, :, :, 1] = garbage
    batch.state[:, 2] = garbage
    batch.action[:, :, 3:] = garbage
    for tensor in predicted:
        tensor.requires_grad_()
    losses = masked_losses(predicted, batch, drawn)
    assert values(losses) == dict.fromkeys(("video", "state", "action", "depth"), 1.0)
    sum(losses.values()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in predicted)
    assert predicted.action.grad[:, :, 3:].abs().max() == 0


def test_the_mean_is_over_what_counts_in_the_whole_batch():
    batch = make_batch()
    batch.action_mask[0] = False
    batch.action_mask[0, 0, 0] = True  # one number of sample 0, all 24 of sample 1
    drawn = make_drawn(batch)
    predicted = off_by(batch, drawn, 0.0)
    predicted.action[0] += 5
    assert masked_losses(predicted, batch, drawn)["action"].item() == pytest.approx(25 / 25)


def test_terms_of_parts_add_up_to_the_whole():
    batch = make_batch()
    batch.state_mask[0, 1:] = False
    drawn = make_drawn(batch, action_levels=(0.5, 0.7))
    predicted = off_by(batch, drawn, 0.0)
    predicted.action[0] += 3
    whole = masked_losses(predicted, batch, drawn)
    parts = []
    for row in (slice(0, 1), slice(1, 2)):
        part = draw_of(NoiseLevels(*(x[row] for x in drawn.levels)), Noisy(*(x[row] for x in drawn.noise)))
        parts.append(loss_terms(Velocity(*(x[row] for x in predicted)), Batch(*(x[row] for x in batch)), part))
    for name, loss in whole.items():
        total = sum(part[name].sum for part in parts) / sum(part[name].count for part in parts)
        torch.testing.assert_close(total, loss)


def test_without_a_depth_branch_there_is_no_depth_loss():
    batch = make_batch()
    drawn = make_drawn(batch)
    losses = masked_losses(off_by(batch, drawn, 1.0)._replace(depth=None), batch, drawn)
    assert set(losses) == {"video", "state", "action"}
    with pytest.raises(ValueError, match="names must be the same"):
        weighted_sum(losses, dict.fromkeys(("video", "state", "action", "depth"), 1.0))


def test_weighted_sum():
    losses = {"video": torch.tensor(2.0), "action": torch.tensor(3.0)}
    assert weighted_sum(losses, {"video": 0.5, "action": 2.0}).item() == 7
