"""Schedules, drawn levels, whole runs and training steps equal the published ones.

The golden files are those of the model in ``model_public_a``; of training, two of five cases are kept.
"""

from pathlib import Path

import pytest

from xwam.evaluate.golden_denoise import (
    STATISTICS_BOUND,
    check_levels,
    check_sampler,
    check_schedules,
    check_training,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
BOUND = 1e-5


def test_schedules_are_exactly_the_published_ones():
    errors = dict(check_schedules(GOLDENS))
    assert len(errors) == 10
    assert set(errors.values()) == {0.0}


def test_training_draws_the_published_levels():
    errors = dict(check_levels(GOLDENS))
    assert len(errors) == 17
    assert {key: error for key, error in errors.items() if not error < STATISTICS_BOUND} == {}


def test_whole_runs_step_by_step():
    errors = dict(check_sampler(GOLDENS, "sampler_public_a"))
    cases = {key.split("/")[0] for key in errors}
    assert cases == {"full", "full_cfg3", "policy", "policy_cfg2", "sync", "short", "seeded"}
    assert len([key for key in errors if key.startswith("full/step")]) == 60
    assert errors["short/refused"] == 0
    assert {key: error for key, error in errors.items() if not error < BOUND} == {}


def test_training_steps_down_to_the_gradients():
    errors = dict(check_training(GOLDENS, "train_public_a"))
    assert len([key for key in errors if "/gradient/" in key]) > 380
    assert {key: error for key, error in errors.items() if not error < BOUND} == {}


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"schedules\.json"):
        next(check_schedules(tmp_path))
