"""The decoder learns to draw what the transformer imagines; the encoder and its latents stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.examples import SHORT_VAE
from xwam.cli import main
from xwam.data.clips import Clips
from xwam.data.opening import open_data
from xwam.encode import video_to_tensor
from xwam.model.vae import VideoVae, encoder_hash, is_decoder_name
from xwam.policy import load_policy
from xwam.train.vae_imagined import (
    ImaginedFilms,
    draw_films,
    imagine_films,
    train_decoder_on_imagined,
)
from xwam.train.vae_recipe import ClipShape

RECIPE = replace(SHORT_VAE, shapes=(ClipShape(32, 5, 6, 1),), num_steps=4, save_every=2)


@pytest.fixture(scope="module")
def world(trained):
    """The checkpoint's folder, its policy, and the whole clips of its training episodes."""
    root, last = trained
    policy = load_policy(last)
    clips = Clips(open_data(root / "data"), policy.config.clip, policy.config.view_names, padded=False)
    return last, policy, clips


def test_films_are_what_was_imagined_beside_what_it_should_have_been(world, tmp_path):
    last, policy, clips = world
    paths = imagine_films(policy, clips, tmp_path, 3, last)
    films = ImaginedFilms(paths)
    assert len(films) == 3 * 3 * 2, "three clips, three cameras, colour and depth"
    kinds = [film.film.ndim for film in films]
    assert kinds == [4] * 9 + [3] * 9
    vae = policy.networks.vae
    for film in (films[0], films[10]):
        is_colour = film.film.ndim == 4
        pictures = video_to_tensor(film.film.numpy()) if is_colour else film.film.float().expand(3, *film.film.shape)
        with torch.no_grad():
            torch.testing.assert_close(film.encoded.float(), vae.encode(pictures[None])[0], atol=2e-2, rtol=2e-3)
        first_is_given = torch.equal(film.imagined[:, 0], film.encoded[:, 0])
        assert first_is_given == is_colour, "the first picture was seen, its depth was not"
        assert not torch.equal(film.imagined[:, 1], film.encoded[:, 1])


def test_the_imagination_was_told_the_recorded_actions(world, tmp_path, monkeypatch):
    last, policy, clips = world
    told = []
    real = policy.networks.transformer.forward

    def listen(video, state, action, *rest, **more):
        told.append(action.clone())
        return real(video, state, action, *rest, **more)

    monkeypatch.setattr(policy.networks.transformer, "forward", listen)
    imagine_films(policy, clips, tmp_path, 1, last)
    expected = torch.from_numpy(policy.normalizer.normalize_action(clips[0].action))[None]
    assert told
    assert all(torch.equal(action, expected) for action in told)


def test_files_are_kept_and_others_refused(world, tmp_path):
    last, policy, clips = world
    path = imagine_films(policy, clips, tmp_path, 2, last)[0]
    written = path.stat().st_mtime_ns
    assert imagine_films(policy, clips, tmp_path, 2, last)[0].stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="made of something else"):
        imagine_films(policy, clips, tmp_path, 1, last)
    with pytest.raises(
        ValueError, match=r"num_clips=100000 of a data set whose training episodes hold \d+ whole clips"
    ):
        imagine_films(policy, clips, tmp_path / "new", 100_000, last)


def test_a_batch_is_mostly_imagined_and_a_function_of_the_step(world, tmp_path):
    last, policy, clips = world
    films = ImaginedFilms(imagine_films(policy, clips, tmp_path, 2, last))
    many = replace(RECIPE, shapes=(ClipShape(32, 5, 400, 1),))
    latents, pictures = draw_films(films, many, 3)
    again = draw_films(films, many, 3)
    assert torch.equal(latents, again[0])
    assert torch.equal(pictures, again[1])
    assert pictures.shape == (400, 3, 5, 32, 32)
    assert pictures.abs().max() <= 1
    known = {film.imagined.float().numpy().tobytes() for film in films}
    share = np.mean([row.numpy().tobytes() in known for row in latents])
    assert 0.65 < share < 0.85


def test_the_decoder_learns_them_and_nothing_else_moves(world, tmp_path):
    last, policy, clips = world
    long = replace(RECIPE, num_steps=60, learning_rate=4e-3, save_every=100)
    more = {"start": last, "num_clips": [2]}
    made = train_decoder_on_imagined(policy, [clips], long, tmp_path / "long", **more)
    before, after = VideoVae.load(last / "vae"), VideoVae.load(made)
    changed = {n for n, v in after.state_dict().items() if not torch.equal(before.state_dict()[n], v)}
    assert changed
    assert all(is_decoder_name(name) for name in changed)
    assert encoder_hash(made) == encoder_hash(last / "vae")
    films = ImaginedFilms(sorted((tmp_path / "long/imagined/0").glob("*.safetensors")))
    latents, pictures = draw_films(films, replace(RECIPE, shapes=(ClipShape(32, 5, 12, 1),)), 0)
    with torch.no_grad():
        errors = [(vae.decode(latents) - pictures).abs().mean() for vae in (before, after)]
    assert errors[1] < 0.9 * errors[0]


def test_an_interrupted_run_goes_on_exactly(world, tmp_path):
    last, policy, clips = world
    more = {"start": last, "num_clips": [1]}
    whole = train_decoder_on_imagined(policy, [clips], RECIPE, tmp_path / "whole", **more)
    saved = train_decoder_on_imagined(policy, [clips], RECIPE, tmp_path / "parts", max_minutes=0.0, **more)
    assert saved == tmp_path / "parts" / "decoder-training"
    parts = train_decoder_on_imagined(policy, [clips], RECIPE, tmp_path / "parts", **more)
    for name, value in VideoVae.load(whole).state_dict().items():
        assert torch.equal(VideoVae.load(parts).state_dict()[name], value), name


def test_the_verb(trained, tmp_path, capsys):
    root, last = trained
    words = ["train-vae", "debug", "--data", *[str(root / "data")] * 2, "--weights", "3", "1", "--steps", "1"]
    words += ["--imagined", "4"]
    main([*words, "--start", str(last), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out/vae")
    made = [ImaginedFilms(sorted((tmp_path / "out/imagined" / part).glob("*.safetensors"))) for part in "01"]
    assert [len(films) for films in made] == [3 * 3 * 2, 1 * 3 * 2], "clips as weighted, three cameras, two kinds"
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "none")])
    assert "Give --start CHECKPOINT" in capsys.readouterr().err
