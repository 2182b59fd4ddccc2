import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.check.golden_folder import GOLDENS, write_model
from xwam.check.golden_model import check_model

BOUND = 1e-5


def test_our_transformer_answers_what_the_published_one_answered():
    errors = dict(check_model(GOLDENS, "model_public_a"))
    assert len([key for key in errors if key.startswith("out/")]) == 42
    assert len([key for key in errors if key.startswith("intermediate/")]) >= 20
    assert {key: error for key, error in errors.items() if not error < BOUND} == {}


def test_double_precision_comes_closer_still():
    """What is left of the error is rounding, not method."""
    errors = dict(check_model(GOLDENS, "model_public_a", dtype=torch.float64))
    assert len(errors) == 24
    assert max(errors.values()) < 1e-8


@pytest.mark.parametrize(("num_views", "num_modalities"), [(2, 2), (4, 1)])
def test_any_sizes_can_be_checked(tmp_path, num_views, num_modalities):
    """Other widths, views, grids and action rates; no depth branch. The answers stored here are our own."""
    write_model(tmp_path, "other", num_views=num_views, num_modalities=num_modalities)
    errors = dict(check_model(tmp_path, "other"))
    assert len(errors) == (8 if num_modalities == 2 else 3)
    assert max(errors.values()) < BOUND


def test_timesteps_that_are_no_levels_are_refused(tmp_path):
    write_model(tmp_path, "other", num_views=2, num_modalities=1)
    golden = load_file(tmp_path / "other.safetensors")
    golden["input/some/t"] = np.array([[500, 900], [500, 400]], np.float32)
    save_file(golden, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="one number per sample"):
        list(check_model(tmp_path, "other"))


def test_a_missing_golden_is_named():
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        next(check_model(GOLDENS, "nothing"))
