"""Schedules, drawn levels, whole runs and training steps equal the published ones.

The golden files are those of the model in ``model_public_a``; of training, two of five cases are kept.
"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from xwam.check.golden_denoise import (
    STATISTICS_BOUND,
    check_levels,
    check_sampler,
    check_schedules,
)
from xwam.check.golden_recipe import read_json, read_tensors
from xwam.check.golden_training import check_training

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


def test_what_nothing_answers_is_wrong(tmp_path):
    tensors, settings = read_tensors(GOLDENS, "sampler_public_a"), read_json(GOLDENS, "sampler_public_a")
    steps = sum(key.startswith("policy/step") and key.endswith("/x") for key in tensors)
    tensors[f"policy/step{steps:02d}/x"] = tensors["policy/step00/x"]  # one step more than we take
    settings["cases"] = {name: settings["cases"][name] for name in ("policy", "full")}
    settings["cases"]["full"]["run_depth"] = False  # but depth was recorded
    save_file(tensors, tmp_path / "sampler_public_a.safetensors")
    (tmp_path / "sampler_public_a.json").write_text(json.dumps(settings))
    shutil.copy(GOLDENS / "model_public_a.json", tmp_path)
    errors = dict(check_sampler(tmp_path, "sampler_public_a"))
    missing = {key for key, error in errors.items() if error == float("inf")}
    assert missing == {f"policy/step{steps:02d} is missing", "full/out/depth_latents is missing"}


def test_training_steps_down_to_the_gradients():
    errors = dict(check_training(GOLDENS, "train_public_a"))
    assert len([key for key in errors if "/gradient/" in key]) > 380
    assert {key: error for key, error in errors.items() if not error < BOUND} == {}


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"schedules\.json"):
        next(check_schedules(tmp_path))
