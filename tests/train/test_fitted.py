"""Data of ours that the preset does not know as it is: the model is fitted to it, and says so."""

import json
from dataclasses import replace

import pytest

from tests.examples import SHORT_VAE
from tests.sim.fake_env import make_fake, make_fake_elsewhere
from xwam.policy import load_policy
from xwam.presets import preset
from xwam.sim.collect import collect
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline
from xwam.train.sources import check_fits, fit, open_sources

SPARSE = Sources(every=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("fitted")
    for name, make in (("three", make_fake), ("two", make_fake_elsewhere)):
        collect(root / name, ["fake-reach"], 2, width_px=32, height_px=32, make_env=make)
    return root


def test_a_preset_that_knows_the_cameras_stays_as_it_is(data, recwarn):
    assert fit(preset("debug"), open_sources([data / "three"], [], [])) == preset("debug")
    assert fit(preset("mini"), open_sources([data / "three"], [], [])) == preset("mini"), "one of three cameras"
    assert not [w for w in recwarn if "fitted" in str(w.message)]


def test_other_cameras_are_trained_on_and_played_from(data, tmp_path):
    with pytest.warns(UserWarning, match="camera='left' of preset 'debug' is not in the data: .* cameras front, wrist"):
        last = run_pipeline(
            "debug", data / "two", tmp_path, {"num_steps": 1, "validate_every": 0}, vae=SHORT_VAE, sources=SPARSE
        )
    assert json.loads((last / "config.json").read_text())["view_names"] == ["front", "wrist"]
    assert not (last / "robot.json").exists()
    env = make_fake_elsewhere()
    env.reset(0)
    _, world = load_policy(last).predict(env.observe(), seed=0)
    assert world.video.shape[0] == 2
    assert [camera.name for camera in world.cameras] == ["front", "wrist"]


def test_a_rate_of_its_own_is_taken_over(data):
    slow = preset("debug")
    slow = replace(slow, clip=replace(slow.clip, action_hz=5.0))
    with pytest.warns(UserWarning, match="action_hz=20 of the data is not 5, as preset 'debug' has it"):
        fitted = fit(slow, open_sources([data / "three"], [], []))
    assert fitted == preset("debug")


def test_mixed_data_share_what_they_have(data):
    with pytest.warns(UserWarning, match="is not in the data"):
        fitted = fit(preset("debug"), open_sources([data / "three", data / "two"], [], []))
    assert fitted.view_names == ("left", "right", "wrist", "front")
    assert fitted.model.num_views == 4


def test_a_cache_of_latents_is_not_fitted(data):
    """Where nothing is fitted, a camera that is missing is an error."""
    (source,) = open_sources([data / "two"], [], [])
    with pytest.raises(ValueError, match="camera='left' is not in this data set"):
        check_fits(preset("debug"), source.episodes)
