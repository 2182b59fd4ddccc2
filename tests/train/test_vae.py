"""The autoencoder learns, resumes exactly, and leaves a folder that VideoVae reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.sim.fake_env import make_fake
from xwam.cli import main
from xwam.model.vae import VideoVae, encoder_hash, is_decoder_name
from xwam.presets import preset
from xwam.sim.collect import Recording, collect
from xwam.train.checkpoint import TrainingState
from xwam.train.options import VaeChanges
from xwam.train.vae import film_step, first_weights, learning_rate_at, optimizer_of, train_vae, update
from xwam.train.vae_decoder import train_decoder
from xwam.train.vae_recipe import TINY_VAE, ClipShape, changed_recipe, draw_clips

CONFIG = preset("debug").vae
TRAINING = replace(
    TINY_VAE,
    shapes=(ClipShape(32, 1, 4, 1), ClipShape(32, 5, 2, 1)),
    num_steps=6,
    num_warmup_steps=2,
    save_every=3,
    num_image_steps=2,
)


@pytest.fixture(scope="module")
def films() -> list[torch.Tensor]:
    """Two colour films and one of depth, with moving edges."""
    rows = np.add.outer(np.arange(7) * 3, np.arange(40))[:, :, None] + np.arange(48)
    colour = np.stack([(rows * k) % 256 for k in (2, 3, 5)], axis=-1).astype(np.uint8)
    films = [colour, colour[:, ::-1].copy(), (rows % 100 / 50 - 1).astype(np.float16)]
    return [torch.from_numpy(film) for film in films]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return VideoVae.load(folder).state_dict()


def test_an_interrupted_run_equals_one_that_was_not(films, tmp_path):
    whole = train_vae(CONFIG, films, TRAINING, tmp_path / "whole")
    saved = train_vae(CONFIG, films, TRAINING, tmp_path / "parts", max_minutes=0.0)  # one step, then saved
    assert saved == tmp_path / "parts" / "vae-training"
    assert not (tmp_path / "parts" / "vae").exists(), "a run would take it for finished"
    parts = train_vae(CONFIG, films, TRAINING, tmp_path / "parts")
    assert parts == tmp_path / "parts" / "vae"
    for name, value in weights(whole).items():
        assert torch.equal(weights(parts)[name], value), name


def test_wild_pictures_stop_a_training_that_goes_on_with_another_rate(films, tmp_path):
    wild = [*films[:2], torch.full_like(films[2], torch.inf)]  # a depth film; the others are sound
    training = replace(TRAINING, shapes=(ClipShape(32, 1, 1, 1),), num_steps=40, save_every=1)
    with pytest.warns(UserWarning, match=r"gradient_norm=nan at step \d+: nothing was learned in it"):
        sound = weights(train_vae(CONFIG, wild, training, tmp_path / "some"))
    assert all(value.isfinite().all() for name, value in sound.items() if not name.startswith("latent_"))
    with (
        pytest.warns(UserWarning, match="nothing was learned"),
        pytest.raises(ValueError, match=r"gradient_norm=nan at step 10 and 9 before it: go on with a lower rate"),
    ):
        train_vae(CONFIG, wild[2:], training, tmp_path / "none")
    assert train_vae(CONFIG, films, replace(training, num_steps=2), tmp_path / "whole", max_minutes=0.0).exists()
    slower = replace(training, num_steps=2, learning_rate=1e-4)
    assert train_vae(CONFIG, films, slower, tmp_path / "whole") == tmp_path / "whole" / "vae"


def test_latents_are_normalised_by_what_was_measured(films, tmp_path):
    vae = VideoVae.load(train_vae(CONFIG, films, replace(TRAINING, num_steps=1), tmp_path))
    assert not torch.equal(vae.latent_std, torch.ones_like(vae.latent_std))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        clips = [draw_clips(films, replace(TRAINING, shapes=(ClipShape(32, 5, 4, 1),)), rng, 0) for _ in range(20)]
        latents = vae.encode(torch.cat(clips)).movedim(1, -1).flatten(0, -2)
    assert latents.mean(dim=0).abs().max() < 0.5
    assert (latents.std(dim=0) - 1).abs().max() < 0.5


def test_the_loss_falls(films, tmp_path):
    seen = []
    training = replace(TRAINING, shapes=(ClipShape(32, 1, 8, 1),), num_steps=60, save_every=100)
    train_vae(CONFIG, films, training, tmp_path, log=lambda numbers, step: seen.append(numbers["loss"]))
    assert len(seen) == 3
    assert seen[-1] < seen[0]


def numbers_of_one_step(films, **changes) -> dict[str, float]:
    """What the first step says, from the same weights and the same crops every time."""
    training = replace(TRAINING, **changes)
    vae = first_weights(CONFIG, 0, None)
    average = {name: value.clone() for name, value in vae.state_dict().items()}
    state = TrainingState(vae, average, optimizer_of(vae, training))
    return {name: value.item() for name, value in film_step(films, training, "auto")(state, 0).items()}


def test_large_latents_cost_and_noise_is_added_to_them(films):
    plain, free, still = (numbers_of_one_step(films, **c) for c in ({}, {"kl_weight": 0.0}, {"latent_noise": 0.0}))
    assert plain["loss"] - free["loss"] == pytest.approx(TRAINING.kl_weight * plain["kl"], rel=1e-2)
    assert plain["loss"] > free["loss"]
    assert plain["psnr"] != still["psnr"], "the decoder read other latents"
    assert plain["kl"] == still["kl"], "the encoder answered the same"


def test_a_step_goes_down_the_clipped_gradient_and_the_average_follows():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 3.0)
    state = TrainingState(network, {"weight": torch.ones(1, 1)}, torch.optim.SGD(network.parameters()))
    norm = update(state, 100 * network.weight.sum(), replace(TRAINING, learning_rate=0.5, max_gradient_norm=2.0), 2)
    assert norm.item() == 100
    assert network.weight.item() == pytest.approx(3 - 0.5 * 2)
    assert state.average["weight"].item() == pytest.approx(0.25 * 1 + 0.75 * 2), "a young run: decay (1 + 2) / (10 + 2)"


def test_clips_keep_time_and_range(films):
    rng = np.random.default_rng(0)
    training = replace(TRAINING, shapes=(ClipShape(32, 9, 3, 1),), frame_stride=4)
    clips = draw_clips(films, training, rng, 0)
    assert clips.shape == (3, 3, 9, 32, 32)
    assert clips.abs().max() <= 1
    assert torch.equal(clips[:, :, 7], clips[:, :, 8])  # beyond the end the last frame repeats


def test_single_pictures_come_first(films):
    kinds = [{draw_clips(films, TRAINING, np.random.default_rng(s), now).shape[2] for s in range(12)} for now in (0, 2)]
    assert kinds == [{1}, {1, 5}]


def test_the_first_steps_see_single_pictures(films):
    rng = np.random.default_rng(0)
    assert {draw_clips(films, TRAINING, rng, 1).shape[2] for _ in range(20)} == {1}
    assert {draw_clips(films, TRAINING, rng, 2).shape[2] for _ in range(20)} == {1, 5}


def test_pictures_smaller_than_the_crop_are_refused(films):
    with pytest.raises(ValueError, match="size_px=64"):
        draw_clips(films, replace(TRAINING, shapes=(ClipShape(64, 1, 1, 1),)), np.random.default_rng(0), 0)


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate_at(now, TRAINING) for now in range(TRAINING.num_steps)]
    assert rates[0] == TRAINING.learning_rate / 2
    assert max(rates) == TRAINING.learning_rate
    assert rates[-1] < rates[2]


def test_an_autoencoder_goes_on_from_anothers_weights(films, tmp_path):
    first = train_vae(CONFIG, films, TRAINING, tmp_path / "first")
    still = replace(TRAINING, num_steps=1, learning_rate=0.0)
    after, before = weights(train_vae(CONFIG, films, still, tmp_path / "second", start=first)), weights(first)
    learned = [name for name in before if not name.startswith("latent_")]
    for name in learned:
        torch.testing.assert_close(after[name], before[name])
    fresh = weights(train_vae(CONFIG, films, still, tmp_path / "fresh"))
    assert any(not torch.allclose(fresh[name], before[name]) for name in learned)
    with pytest.raises(ValueError, match="they must be the same"):
        train_vae(replace(CONFIG, base_width=8), films, still, tmp_path / "other", start=first)


def test_the_decoder_alone_learns_and_the_latents_stay(films, tmp_path):
    first = train_vae(CONFIG, films, replace(TRAINING, num_steps=2), tmp_path / "first")
    saved = train_decoder(CONFIG, films, TRAINING, tmp_path / "parts", start=first, max_minutes=0.0)
    assert saved == tmp_path / "parts" / "decoder-training"  # one step is done
    assert not (tmp_path / "parts" / "vae").exists()
    parts = train_decoder(CONFIG, films, TRAINING, tmp_path / "parts", start=first)
    whole = train_decoder(CONFIG, films, TRAINING, tmp_path / "whole", start=first)
    for name, value in weights(whole).items():
        assert torch.equal(weights(parts)[name], value), name
    changed = {name for name, value in weights(first).items() if not torch.equal(weights(whole)[name], value)}
    assert changed
    assert all(is_decoder_name(name) for name in changed), "encoder and latent statistics must not move"
    assert encoder_hash(whole) == encoder_hash(first), "latents that are cached stay valid"
    other = train_vae(CONFIG, films, TRAINING, tmp_path / "other")
    assert encoder_hash(other) != encoder_hash(first)


def test_a_shipped_autoencoder_keeps_its_encoders_bits(films, tmp_path):
    first = train_vae(CONFIG, films, replace(TRAINING, num_steps=2), tmp_path / "first")
    shipped = {name: value.bfloat16() for name, value in load_file(first / "model.safetensors").items()}
    save_file(shipped, first / "model.safetensors")
    made = train_decoder(CONFIG, films, TRAINING, tmp_path / "made", start=first)
    found = load_file(made / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert encoder_hash(made) == encoder_hash(first), "latents that are cached stay valid"
    assert any(not torch.equal(found[name], shipped[name]) for name in shipped if is_decoder_name(name))


def test_an_unfinished_training_is_not_taken_for_another(films, tmp_path):
    first = train_vae(CONFIG, films, replace(TRAINING, num_steps=2), tmp_path / "first")
    saved = train_decoder(CONFIG, films, TRAINING, tmp_path / "parts", start=first, max_minutes=0.0)
    with pytest.raises(ValueError, match=r"films=\w+ differs from \w+ of the training in"):
        train_decoder(CONFIG, [255 - film for film in films], TRAINING, tmp_path / "parts", start=first)
    recipe = saved / "recipe.json"
    stored = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(stored | {"imagined": [3]}))
    with pytest.raises(ValueError, match=r"imagined=None differs from \[3\]"):
        train_decoder(CONFIG, films, TRAINING, tmp_path / "parts", start=first)


def test_the_verb_trains_an_autoencoder_and_goes_on_with_its_decoder(tmp_path, capsys):
    """From a data set, into the place where a run would look for it; then the decoder alone, so that latents stay."""
    collect(tmp_path / "data", ["fake-reach"], 3, Recording(width_px=128, height_px=128, make_env=make_fake))
    common = ["train-vae", "debug", "--data", str(tmp_path / "data"), "--steps", "1"]
    main([*common, "--out", str(tmp_path / "run/frozen")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "run/frozen/vae")
    first = weights(tmp_path / "run/frozen/vae")
    main([*common, "--out", str(tmp_path / "more"), "--start", str(tmp_path / "run/frozen"), "--decoder-only"])
    changed = {name for name, value in weights(tmp_path / "more/vae").items() if not torch.equal(first[name], value)}
    assert changed
    assert all(is_decoder_name(name) for name in changed)
    main([*common[:-1], "2", "--out", str(tmp_path / "short"), "--minutes", "0"])
    assert "vae-training: not finished" in capsys.readouterr().out
    assert not (tmp_path / "short/vae").exists()
    main([*common, "--out", str(tmp_path / "all"), "--start", str(tmp_path / "run/frozen")])
    assert any(
        not is_decoder_name(n) and not torch.equal(first[n], v) for n, v in weights(tmp_path / "all/vae").items()
    )
    for more, message in (
        (["--out", str(tmp_path / "none"), "--decoder-only"], "give --start CHECKPOINT"),
        (["--out", str(tmp_path / "all"), "--start", str(tmp_path / "more")], "start="),
        (["--out", str(tmp_path / "all"), "--start", str(tmp_path / "run/frozen"), "--batch-factor", "2"], "shapes="),
    ):
        with pytest.raises(SystemExit):
            main([*common, *more])
        assert message in capsys.readouterr().err
    main(["train-vae", "mini", *common[2:], "--out", str(tmp_path / "mini"), "--start", str(tmp_path / "more")])
    sizes = [(tmp_path / name / "vae/config.json").read_text() for name in ("mini", "more")]
    assert sizes[0] == sizes[1], "sizes are those of the start, whatever the preset"


def test_a_gpu_gets_larger_batches_of_whole_pictures(films, tmp_path, capsys):
    steps, rate = TRAINING.num_steps, TRAINING.learning_rate
    plain = VaeChanges(steps=steps, image_steps=TRAINING.num_image_steps, learning_rate=rate)
    assert changed_recipe(TRAINING, plain) == TRAINING
    larger = changed_recipe(TRAINING, replace(plain, batch_factor=3, crop_px=16))
    clips = draw_clips(films, larger, np.random.default_rng(0), TRAINING.num_image_steps)
    assert len(clips) in {3 * shape.batch_size for shape in TRAINING.shapes}
    assert clips.shape[-2:] == (16, 16)
    assert replace(larger, shapes=TRAINING.shapes) == TRAINING
    for option, value, said in (
        ("--batch-factor", "0", "batch_factor=0: must be 1 or more"),
        ("--crop-px", "0", "crop_px=0: must be a multiple of 16"),
        ("--crop-px", "24", "crop_px=24: must be a multiple of 16"),
        ("--steps", "0", "steps=0: must be 1 or more"),
    ):
        with pytest.raises(SystemExit):
            main(["train-vae", "debug", "--data", str(tmp_path), "--out", str(tmp_path / "vae"), option, value])
        assert said in capsys.readouterr().err
