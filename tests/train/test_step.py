"""One step: what is random in it, and what a prefix of committed actions changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.encoded import EncodedClips
from xwam.denoise.losses import masked_losses
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
from xwam.tensors import Given
from xwam.train import step
from xwam.train.checkpoint import TrainingState
from xwam.train.state import update_average

CONFIG = preset("debug")
WITHOUT = replace(CONFIG, noise=replace(CONFIG.noise, max_prefix=0))
DATA = EncodedClips(CONFIG, size=8)
BATCH = DATA.batch(np.arange(8), 0)


@pytest.fixture(scope="module")
def model() -> XWAM:
    torch.manual_seed(0)
    network = XWAM(CONFIG.model)
    init_weights(network, torch.Generator().manual_seed(0))
    return network.eval()


def test_prefixes_leave_everything_else_that_is_drawn_as_it_was():
    plain = step.draw(BATCH, WITHOUT, step.generator_for(0, 3))
    drawn = step.draw(BATCH, CONFIG, step.generator_for(0, 3))
    assert plain.given == Given(frames=1, states=1, actions=0)
    for old, new in zip((*plain.levels, *plain.noise), (*drawn.levels, *drawn.noise), strict=True):
        assert torch.equal(old, new)
    assert torch.equal(plain.text_is_dropped, drawn.text_is_dropped)
    assert 0 < drawn.given.actions.max() <= CONFIG.noise.max_prefix


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_so_many_prompts_are_dropped(share):
    config = replace(CONFIG, train=replace(CONFIG.train, text_dropout=share))
    dropped = torch.stack([step.draw(BATCH, config, step.generator_for(0, n)).text_is_dropped for n in range(60)])
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.06)


def test_prefixes_depend_on_seed_and_step_alone_and_processes_share_them():
    first, again, other = (step.draw(BATCH, CONFIG, step.generator_for(0, n)).given.actions for n in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    drawn = step.draw(BATCH, CONFIG, step.generator_for(0, 3))
    parts = [step.share(drawn, rank, 2).given.actions for rank in range(2)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(), first)


@torch.no_grad()
def test_given_actions_enter_clean_and_at_level_0(model):
    drawn = step.draw(BATCH, CONFIG, step.generator_for(0, 3))
    drawn = drawn._replace(given=Given(actions=torch.full((8,), 4)))
    seen = {}

    def watch(_, args, kwargs):
        seen.update(action=args[2], levels=args[4], **kwargs)

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    answer = step.predict(model, BATCH, drawn, DATA.empty_prompt)
    handle.remove()
    noisy = drawn.levels.action > 0
    assert torch.equal(seen["action"][:, :4], BATCH.action[:, :4])
    assert not torch.isclose(seen["action"][noisy, 4:], BATCH.action[noisy, 4:]).all()
    assert torch.equal(seen["given_actions"], torch.full((8,), 4))

    # At level 0 the noise of those actions is nowhere to be seen; at their own level it would be.
    changed = drawn.noise.action.clone()
    changed[:, :4] += 1
    other = drawn._replace(noise=drawn.noise._replace(action=changed))
    again = step.predict(model, BATCH, other, DATA.empty_prompt)
    assert torch.equal(answer.action, again.action)
    loss, same = (masked_losses(answer, BATCH, d)["action"] for d in (drawn, other))
    assert torch.equal(loss, same)


@torch.no_grad()
def test_given_actions_are_those_that_were_executed(model):
    """They led to the video; what should be done is learned from the others."""
    executed = BATCH._replace(executed=BATCH.action + 1)
    drawn = step.draw(BATCH, WITHOUT, step.generator_for(0, 3))
    levels = drawn.levels._replace(action=torch.where(torch.arange(8) < 4, 0.0, 0.5))
    drawn = drawn._replace(levels=levels, given=Given(actions=torch.full((8,), 2)))
    seen = {}
    handle = model.register_forward_pre_hook(lambda _, args, __: seen.update(action=args[2]), with_kwargs=True)
    answer = step.predict(model, executed, drawn, DATA.empty_prompt)
    handle.remove()
    assert torch.equal(seen["action"][:4], executed.executed[:4]), "all are given"
    assert torch.equal(seen["action"][4:, :2], executed.executed[4:, :2]), "a prefix is given"
    torch.testing.assert_close(seen["action"][4:, 2:], (BATCH.action + drawn.noise.action)[4:, 2:] / 2)
    assert torch.equal(masked_losses(answer, executed, drawn)["action"], masked_losses(answer, BATCH, drawn)["action"])


@torch.no_grad()
def test_a_prefix_of_nothing_is_the_plain_step(model):
    plain = step.draw(BATCH, WITHOUT, step.generator_for(0, 3))
    none = plain._replace(given=Given(actions=torch.zeros(8, dtype=torch.int64)))
    for name, term in step.compute_terms(model, BATCH, plain, DATA.empty_prompt).items():
        other = step.compute_terms(model, BATCH, none, DATA.empty_prompt)[name]
        assert torch.equal(term.sum, other.sum)
        assert torch.equal(term.count, other.count)


def test_clips_that_are_no_demonstrations_teach_the_video_alone(model):
    mask = BATCH.action_mask.clone()
    mask[::2] = False
    batch = BATCH._replace(action_mask=mask)
    drawn = step.only_taught(step.draw(batch, WITHOUT, step.generator_for(0, 3)), batch)
    assert (drawn.levels.action[::2] == 0).all()
    assert (drawn.levels.action[1::2] > 0).any()
    for rank in range(2):  # each process looks at its own rows: the same levels
        part = step.only_taught(
            step.share(step.draw(batch, WITHOUT, step.generator_for(0, 3)), rank, 2), step.cut(batch, rank, 2)
        )
        assert torch.equal(part.levels.action, drawn.levels.action[rank::2])
        assert torch.equal(part.levels.video, drawn.levels.video[rank::2])

    wandering = step.cut(batch, 0, 2)  # the even rows
    terms = step.compute_terms(model, wandering, step.share(drawn, 0, 2), DATA.empty_prompt)
    assert terms["action"].count == terms["state"].count == 0
    assert terms["video"].count > 0
    assert torch.equal(wandering.action, BATCH.action[::2]), "the actions themselves are there to be read"


@torch.no_grad()
def test_dropped_words_become_the_empty_prompt_and_no_others(model):
    drawn = step.draw(BATCH, CONFIG, step.generator_for(0, 3))
    dropped = torch.arange(8) % 2 == 0
    found = step.predict(model, BATCH, drawn._replace(text_is_dropped=dropped), DATA.empty_prompt)
    words = BATCH.prompt.clone()
    words[dropped] = DATA.empty_prompt
    by_hand = BATCH._replace(prompt=words)
    expected = step.predict(model, by_hand, drawn._replace(text_is_dropped=torch.zeros(8).bool()), DATA.empty_prompt)
    assert torch.equal(found.action, expected.action)
    assert not torch.equal(BATCH.prompt[0], words[0])


def test_the_average_moves_a_little_towards_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 3.0)
    state = TrainingState(network, {"weight": torch.ones(1, 1)}, torch.optim.SGD(network.parameters()))
    update_average(state, 0.9, 10_000)
    assert state.average["weight"].item() == pytest.approx(0.9 * 1 + 0.1 * 3)
    update_average(state, 0.9, 0)  # a young run: decay (1 + 0) / (10 + 0)
    assert state.average["weight"].item() == pytest.approx(0.1 * 1.2 + 0.9 * 3)
