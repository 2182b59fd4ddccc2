"""Settings: strict both ways."""

import json
from dataclasses import replace

import pytest

from xwam.config import Config, DenoiseConfig
from xwam.presets import PRESETS, preset
from xwam.strict_json import from_json, load, to_json
from xwam.train.options import Changes
from xwam.train.options import changed as recipe_of


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    assert from_json(Config, to_json(preset(name))) == preset(name)


def test_sizes_that_follow_from_others():
    config = preset("wan22_5b")
    assert config.num_latent_frames == 1 + (config.clip.num_frames - 1) // 4
    assert config.latent_grid == (config.clip.height_px // 16, config.clip.width_px // 16)
    assert config.model.has_depth
    assert not replace(config.model, num_depth_blocks=0).has_depth


def changed(**edits) -> str:
    stored = json.loads(to_json(preset("debug")))
    for path, value in edits.items():
        *parents, key = path.split("__")
        node = stored
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[key]
        else:
            node[key] = value
    return json.dumps(stored)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"train__text_dropuot": 0.0}, "unknown key 'text_dropuot'.*did you mean 'text_dropout'"),
        ({"train__text_dropout": None}, "lacks text_dropout"),
        ({"train__num_steps": "many"}, "num_steps='many': must be of type int"),
        ({"train__num_steps": True}, "must be of type int"),
        ({"noise__draw": "asynchronus"}, "did you mean 'asynchronous'"),
        ({"model__patch_size": [1, 2]}, "must have 3 entries"),
        ({"model__width": 33}, "width=33, num_heads=2"),
        ({"clip__num_frames": 6}, "num_frames=6"),
        ({"clip__action_horizon": 5}, "actions end where the video ends"),
        ({"vae__latent_channels": 9}, "must equal vae.latent_channels=9"),
        ({"noise__max_prefix": 16}, "max_prefix=16 must be in 0..15"),
        ({"noise__clean_action_ratio": 1.5}, "clean_action_ratio=1.5 must be in 0..1"),
        ({"model__frames_per_latent": 2}, "frames_per_latent=2 must equal the VAE's stride in time=4"),
        ({"clip__height_px": 48}, "clip.height_px=48: must be a multiple of 32, the side of one token"),
        ({"clip__crop": 1.5}, "crop=1.5: must be above 0 and at most 1"),
        ({"denoise__reuse_every": 0}, "reuse_every=0: must be 1"),
    ],
)
def test_mistakes_are_named(edits, message):
    with pytest.raises(ValueError, match=message):
        from_json(Config, changed(**edits))


def test_actions_never_finish_after_the_video():
    with pytest.raises(ValueError, match="never after"):
        DenoiseConfig(num_video_steps=2, num_action_steps=3, shift=5.0, guidance=1.0)


def test_unknown_preset_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        preset("tinny")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(Config, tmp_path / "config.json")


def test_presets_are_frozen():
    with pytest.raises(AttributeError):
        preset("tiny").name = "other"
    assert replace(preset("tiny"), name="other").name == "other"


def test_changes_of_a_recipe_reach_training_and_noise():
    given = Changes(steps=7, action_loss_weight=40.0, clean_action_ratio=0.1, max_prefix=0).given()
    found = recipe_of(preset("tiny"), given)
    assert (found.train.num_steps, found.train.action_loss_weight) == (7, 40.0)
    assert (found.noise.clean_action_ratio, found.noise.max_prefix, found.noise.draw) == (0.1, 0, "asynchronous")
    assert recipe_of(preset("tiny"), Changes().given()) == preset("tiny")
    with pytest.raises(ValueError, match="clean_action_ratio=2"):
        recipe_of(preset("tiny"), {"clean_action_ratio": 2.0})
