"""Data of ours that the preset does not know as it is: the model is fitted to it, and says so."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.examples import SHORT_VAE
from tests.sim.fake_env import make_fake, make_fake_elsewhere
from xwam.policy import load_policy
from xwam.presets import preset
from xwam.sim.collect import Recording, collect
from xwam.train.adapt import adapted
from xwam.train.options import Sources, Watch
from xwam.train.pipeline import run_pipeline
from xwam.train.sources import check_fits, fit, open_sources

SPARSE = Sources(every=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("fitted")
    for name, make in (("three", make_fake), ("two", make_fake_elsewhere)):
        collect(root / name, ["fake-reach"], 2, Recording(width_px=32, height_px=32, make_env=make))
    return root


def test_a_preset_that_knows_the_cameras_stays_as_it_is(data, recwarn):
    assert fit(preset("debug"), open_sources([data / "three"], [], [])) == preset("debug")
    assert fit(preset("mini"), open_sources([data / "three"], [], [])) == preset("mini"), "one of three cameras"
    assert not [w for w in recwarn if "fitted" in str(w.message)]


def test_only_what_does_not_fit_is_changed(data):
    """One camera of three and a clock that is a little off are the preset's own; another rate is taken over alone."""
    nearly, slow = (replace(preset("mini").clip, action_hz=hz) for hz in (20.1, 5.0))
    (source,) = open_sources([data / "three"], [], [])
    assert fit(replace(preset("mini"), clip=nearly), [source]).clip == nearly
    with pytest.warns(UserWarning, match=r"fitted to three: action_hz 20.0 instead of 5.0\."):
        fitted = fit(replace(preset("mini"), clip=slow), [source])
    assert fitted.view_names == ("right",)


def test_data_of_two_rates_are_refused_before_anything_is_made(data):
    (source,) = open_sources([data / "three"], [], [])
    other = copy.copy(source.episodes)
    other.action_hz = 10.0
    with pytest.raises(ValueError, match="action_hz=10 of the data set, 20 of the model"):
        fit(preset("debug"), [source, source._replace(episodes=other)])


@pytest.mark.filterwarnings("ignore:preset 'debug' is fitted")
def test_a_task_that_the_robot_cannot_play_is_refused_before_anything_is_made(data, tmp_path):
    for name, watch, message in (
        ("two", Watch(evaluate_tasks=("reach-v3",)), "camera 'front', not among left, right, wrist"),
        ("three", Watch(evaluate_tasks=("reach-v33",)), "did you mean 'reach-v3'"),
        ("three", Watch(evaluate_tasks=("TwoArmLift",), evaluate_simulator="robosuite"), "right_position: is_used"),
    ):
        with pytest.raises(ValueError, match=message):
            run_pipeline("debug", data / name, tmp_path, {}, vae=SHORT_VAE, sources=SPARSE, watch=watch)
    assert not list(tmp_path.iterdir())


def test_other_cameras_are_trained_on_and_played_from(data, tmp_path):
    with pytest.warns(UserWarning, match="fitted to two: cameras front, wrist instead of left, right, wrist"):
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


def test_cameras_that_a_start_does_not_know_can_be_told_apart(data, tmp_path):
    """With equal embeddings the network would be the same for both, for ever."""
    quick = {"num_steps": 1, "validate_every": 0}
    start = run_pipeline("debug", data / "three", tmp_path / "start", quick, vae=SHORT_VAE, sources=SPARSE)
    with pytest.warns(UserWarning, match="fitted to two"):
        run_pipeline("debug", data / "two", tmp_path / "run", quick, vae=SHORT_VAE, sources=SPARSE, start=start)
    known = load_file(start / "model.safetensors")["view_embedding.weight"]
    front, wrist = load_file(tmp_path / "run/start/model.safetensors")["view_embedding.weight"]
    assert torch.equal(wrist, known[2])
    assert 0.01 < (front - known.mean(dim=0)).std() < 0.03
    config = replace(preset("debug"), view_names=("a", "b", "c"))
    first, second, third = load_file(adapted(start, config, tmp_path / "new") / "model.safetensors")[
        "view_embedding.weight"
    ]
    assert min((first - second).std(), (second - third).std()) > 0.01


def test_mixed_data_share_what_they_have(data):
    with pytest.warns(UserWarning, match="cameras left, right, wrist, front instead of"):
        fitted = fit(preset("debug"), open_sources([data / "three", data / "two"], [], []))
    assert fitted.view_names == ("left", "right", "wrist", "front")
    assert fitted.model.num_views == 4


def test_a_run_on_mixed_cameras_plays_the_simulator_through_those_of_its_first_data(data, tmp_path):
    """Views that the first robot lacks are grey in play, as they were in training."""
    pytest.importorskip("metaworld")
    watch = Watch(evaluate_tasks=("reach-v3",), evaluate_episodes=1, evaluate_max_steps=2)
    changes = {"num_steps": 1, "validate_every": 1, "num_warmup_steps": 1}
    with pytest.warns(UserWarning, match="cameras left, right, wrist, front instead of"):
        run_pipeline(
            "debug", [data / "three", data / "two"], tmp_path, changes, vae=SHORT_VAE, sources=SPARSE, watch=watch
        )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["validation/success"] for row in rows if "validation/success" in row] == [0.0]


def test_a_cache_of_latents_is_not_fitted(data):
    """Where nothing is fitted, a camera that is missing is an error."""
    (source,) = open_sources([data / "two"], [], [])
    with pytest.raises(ValueError, match="camera='left' is not in this data set"):
        check_fits(preset("debug"), source.episodes)
