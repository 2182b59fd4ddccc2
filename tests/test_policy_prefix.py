"""The policy goes on from a prefix: given to a checkpoint that was trained so, steered for another."""

from dataclasses import replace

import numpy as np
import pytest

from tests.examples import make_observation
from tests.test_policy import CONFIG, folder  # noqa: F401 (a fixture)
from xwam.policy import Policy, load_policy


@pytest.fixture(scope="module")
def trained(folder) -> Policy:  # noqa: F811
    return load_policy(folder)


@pytest.fixture(scope="module")
def untrained(trained) -> Policy:
    config = replace(CONFIG, noise=replace(CONFIG.noise, max_prefix=0))
    return Policy(config, trained.normalizer, trained.cameras, trained.networks)


def old_chunk(policy: Policy) -> np.ndarray:
    """What a robot may be playing: another observation's answer, from its fifth action on."""
    return next(policy.predict(make_observation(CONFIG, seed=9), seed=4, actions_only=True)).action[5:]


def answer(policy: Policy, **asked) -> np.ndarray:
    return next(policy.predict(make_observation(CONFIG), seed=3, actions_only=True, **asked)).action


@pytest.mark.parametrize("kind", ["trained", "untrained"])
def test_the_answer_begins_with_what_is_committed_in_physical_units(kind, request):
    policy = request.getfixturevalue(kind)
    old = old_chunk(policy)
    found = answer(policy, prefix=old, num_committed=3)
    np.testing.assert_allclose(found[:3], old[:3], atol=1e-7)
    plain = answer(policy)
    assert np.abs(plain[:3] - old[:3]).max() > 1e-3
    assert np.abs(found[3:] - plain[3:]).max() > 1e-6, "what follows knows what was committed"
    np.testing.assert_allclose(answer(policy, prefix=old[:3])[:3], old[:3], atol=1e-7)


@pytest.mark.parametrize("kind", ["trained", "untrained"])
@pytest.mark.parametrize("prefix", [None, np.zeros((0, 14), np.float32)])
def test_nothing_committed_is_the_plain_answer_bit_for_bit(kind, prefix, request):
    policy = request.getfixturevalue(kind)
    np.testing.assert_array_equal(answer(policy, prefix=prefix), answer(policy))


def test_a_trained_checkpoint_asked_for_no_committed_actions_answers_as_usual(trained):
    np.testing.assert_array_equal(answer(trained, prefix=old_chunk(trained), num_committed=0), answer(trained))


@pytest.mark.parametrize("kind", ["trained", "untrained"])
def test_a_batch_with_different_prefixes_answers_as_single_requests_do(kind, request):
    policy = request.getfixturevalue(kind)
    old = old_chunk(policy)
    observations = [make_observation(CONFIG, seed=s) for s in range(3)]
    prefixes, counts = [old, None, old[:4]], [2, None, 4]
    asked = {"prefixes": prefixes, "num_committed": counts, "actions_only": True}
    together = next(policy.predict_batch(observations, seeds=[1, 2, 3], **asked))
    for observation, seed, prefix, count, found in zip(
        observations, [1, 2, 3], prefixes, counts, together, strict=True
    ):
        alone = next(policy.predict(observation, seed=seed, prefix=prefix, num_committed=count, actions_only=True))
        np.testing.assert_allclose(found.action, alone.action, atol=1e-5)


def test_the_world_is_imagined_for_what_will_be_played(untrained):
    now, later = untrained.predict(make_observation(CONFIG), seed=3, prefix=old_chunk(untrained), num_committed=3)
    np.testing.assert_array_equal(now.action, later.action)
    assert later.video is not None


@pytest.mark.parametrize(
    ("prefix", "count", "message"),
    [
        (np.zeros((17, 14), np.float32), 3, "at most 16 actions"),
        (np.zeros((4, 14), np.float32), 5, "num_committed=5"),
        (np.zeros((16, 14), np.float32), None, "at least one is left to predict"),
        (None, 2, "num_committed=2"),
        (np.zeros((4, 9), np.float32), 2, "needs 14 slots"),
        (np.full((4, 14), np.nan, np.float32), 2, "not finite"),
    ],
)
def test_doors(trained, prefix, count, message):
    with pytest.raises(ValueError, match=message):
        answer(trained, prefix=prefix, num_committed=count)


def test_more_than_training_gave_is_given_too_and_costs_nothing(trained, monkeypatch):
    """Otherwise one late answer would make the next one later still, as steering takes three times as long."""

    def never(*_):
        raise AssertionError("steered")

    monkeypatch.setattr("xwam.denoise.sampler.steer", never)
    old, most = old_chunk(trained), CONFIG.noise.max_prefix
    found = answer(trained, prefix=old, num_committed=most + 3)
    np.testing.assert_allclose(found[: most + 3], old[: most + 3], atol=1e-7)
    fewer = answer(trained, prefix=old, num_committed=most)
    assert np.abs(found[most + 3 :] - fewer[most + 3 :]).max() > 1e-6, "what follows knows all of them"
