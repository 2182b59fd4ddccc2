"""Settings: strict both ways."""

import json
from dataclasses import replace

import pytest

from xwam.config import Config, DenoiseConfig, from_json, load, to_json
from xwam.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    assert from_json(Config, to_json(preset(name))) == preset(name)


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
