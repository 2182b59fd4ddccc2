"""The step cache: fewer calls, none of them missing while actions are denoised."""

from dataclasses import replace

import pytest
import torch

from tests.denoise.test_sampler import CONFIG, CuriousModel, random_noisy
from xwam.denoise.noise import keep_given
from xwam.denoise.sampler import ActionsReady, WorldReady, denoise
from xwam.tensors import Given


def run(every: int):
    clean, noise = random_noisy(0), random_noisy(1)
    model = CuriousModel(clean, noise)
    config = replace(CONFIG, reuse_every=every)
    events = denoise(model, keep_given(noise, clean, Given()), config=config, given=Given())
    return model, *(event for event in events if isinstance(event, (ActionsReady, WorldReady)))


@pytest.mark.parametrize(("every", "num_calls"), [(1, 7), (2, 3 + 3), (3, 3 + 2), (9, 3 + 2)])
def test_only_the_world_phase_saves_calls(every, num_calls):
    plain, actions, world = run(1)
    model, found_actions, found_world = run(every)
    assert len(model.calls) == num_calls
    assert model.calls[: CONFIG.num_action_steps] == plain.calls[: CONFIG.num_action_steps]
    assert model.calls[-1] == plain.calls[-1], "the call that gives the depth is never saved"
    assert torch.equal(found_actions.action, actions.action)
    assert torch.equal(found_actions.state, actions.state)
    assert torch.equal(found_world.video, world.video) == (every == 1)


def test_less_than_every_step_is_refused():
    with pytest.raises(ValueError, match="reuse_every=0"):
        run(0)
