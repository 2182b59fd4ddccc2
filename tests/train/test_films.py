"""What the autoencoder is shown: films of training episodes, as many as memory holds, read piece by piece."""

from dataclasses import replace

import pytest
import torch

from tests.sim.fake_env import make_fake
from xwam.data.clips import split_episodes
from xwam.presets import preset
from xwam.sim.collect import Recording, collect
from xwam.train import films
from xwam.train.sources import fit, open_sources


def test_held_out_episodes_are_held_out_from_the_autoencoder_too(tmp_path, monkeypatch):
    collect(tmp_path / "data", ["fake-reach"], 12, Recording(width_px=24, height_px=24, make_env=make_fake))
    read = []
    monkeypatch.setattr(films, "load_films", lambda episodes, indices, views, clip: read.extend(indices) or [])
    sources = open_sources([tmp_path / "data"], (), ())
    films.films_of(fit(preset("debug"), sources), sources)
    training, held_out = split_episodes(12)
    assert held_out
    assert sorted(read) == training
    read.clear()
    films.films_of(fit(preset("debug"), sources), sources, 3)
    assert len(read) == 3
    assert set(read) <= set(training)
    read.clear()
    steps = sum(sources[0].episodes.length(number) for number in training)
    clip = fit(preset("debug"), sources).clip
    monkeypatch.setattr(films, "MOST_FILM_BYTES", steps * 3 * clip.height_px * clip.width_px * 5 / 2)
    with pytest.warns(UserWarning, match=r"140 episodes would take 0 GB of memory: .* from 50% of them"):
        films.films_of(fit(preset("debug"), sources), sources)
    assert len(read) == len(training) // 2
    read.clear()
    films.films_of(fit(preset("debug"), sources), sources, 100)
    assert sorted(read) == training, "who names a number gets it"


def test_films_are_read_piece_by_piece(tmp_path, monkeypatch):
    collect(tmp_path / "data", ["fake-reach"], 1, Recording(width_px=24, height_px=24, make_env=make_fake))
    episodes = open_sources([tmp_path / "data"], (), ())[0].episodes
    clip = replace(preset("debug").clip, height_px=16, width_px=16)
    whole = films.load_films(episodes, [0], ["left", "wrist"], clip)
    monkeypatch.setattr(films, "FRAMES_AT_ONCE", 3)
    pieces = films.load_films(episodes, [0], ["left", "wrist"], clip)
    assert len(whole) == len(pieces) == 4, "colour and depth of two cameras"
    for one, other in zip(whole, pieces, strict=True):
        assert len(one) == episodes.length(0) > 3
        assert torch.equal(one, other)
