"""The video autoencoder: shapes, causality, files, names, and both directions of its statistics."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from xwam.model.vae import VideoVae
from xwam.presets import preset

CONFIG = preset("debug").vae


@pytest.fixture(scope="module")
def vae() -> VideoVae:
    torch.manual_seed(0)
    vae = VideoVae(CONFIG).eval()
    vae.set_latent_stats(torch.linspace(-1, 1, CONFIG.latent_channels), torch.linspace(0.5, 2, CONFIG.latent_channels))
    return vae


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    return torch.rand(2, 3, 9, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_shapes_and_range(vae, video):
    latents = vae.encode(video)
    assert latents.shape == (2, CONFIG.latent_channels, 3, 2, 3)
    decoded = vae.decode(20 * latents)
    assert decoded.shape == video.shape
    assert decoded.abs().max() <= 1


@torch.no_grad()
def test_one_frame_gives_latent_frame_0_of_the_clip(vae, video):
    assert torch.equal(vae.encode(video[:, :, :1]), vae.encode(video)[:, :, :1])


@torch.no_grad()
def test_the_past_does_not_see_the_future(vae, video):
    changed = video.clone()
    changed[:, :, 5:] = 0
    assert torch.equal(vae.encode(changed)[:, :, :2], vae.encode(video)[:, :, :2])


@torch.no_grad()
def test_the_same_numbers_as_the_library(vae, video):
    theirs = AutoencoderKLWan.from_config(vae.vae.config)
    theirs.load_state_dict(vae.vae.state_dict())
    mean, log_variance = vae.posterior(video)
    torch.testing.assert_close(mean, theirs.encode(video).latent_dist.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_variance, theirs.encode(video).latent_dist.logvar, rtol=1e-5, atol=1e-6)
    rebuilt = vae.reconstruct(mean).clamp(-1, 1)
    torch.testing.assert_close(rebuilt, theirs.decode(mean).sample, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_decoder_may_work_in_bf16_and_the_encoder_does_not_notice(video):
    exact, other = (VideoVae.load(Path(__file__).parents[2] / "checkpoints/tiny/vae") for _ in range(2))
    assert other.set_decoder_dtype(torch.bfloat16) is other
    latents = other.encode(video)
    assert torch.equal(latents, exact.encode(video))
    latents += torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    decoded, expected = other.decode(latents), exact.decode(latents)
    assert decoded.dtype == latents.dtype == torch.float32
    grey_levels = 127.5 * (decoded - expected).square().mean().sqrt()
    assert 1e-3 < grey_levels < 0.17, "rounded, and no more than that"


@torch.no_grad()
def test_normalising_round_trip(vae, video):
    latents = vae.posterior(video)[0]
    torch.testing.assert_close(vae.denormalize(vae.normalize(latents)), latents)
    assert not torch.equal(vae.normalize(latents), latents)


@torch.no_grad()
def test_a_batch_equals_its_samples(vae, video):
    torch.testing.assert_close(vae.encode(video)[1:], vae.encode(video[1:]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_saved_and_loaded_whole_or_without_decoder(vae, video, tmp_path):
    vae.save(tmp_path / "vae")
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["config.json", "model.safetensors"]
    whole, encoder = VideoVae.load(tmp_path / "vae"), VideoVae.load(tmp_path / "vae", encoder_only=True)
    latents = vae.encode(video)
    assert torch.equal(whole.encode(video), latents)
    assert torch.equal(whole.decode(latents), vae.decode(latents))
    assert torch.equal(encoder.encode(video), latents)
    assert sum(p.numel() for p in encoder.parameters()) < sum(p.numel() for p in whole.parameters()) / 2
    with pytest.raises(ValueError, match="encoder_only"):
        encoder.decode(latents)
    with pytest.raises(ValueError, match="encoder_only"):
        encoder.save(tmp_path / "again")


def test_gradients_reach_every_weight(vae, video):
    mean, log_variance = vae.posterior(video)
    rebuilt = vae.reconstruct(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
    rebuilt.square().mean().backward()
    assert [name for name, weight in vae.named_parameters() if weight.grad is None] == []
    vae.zero_grad()


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 32, 32), (9, 30, 32), (9, 32, 40)])
def test_wrong_sizes_are_refused(vae, frames, height, width):
    with pytest.raises(ValueError, match=r"num_frames=8|multiples of 16"):
        vae.encode(torch.zeros(1, 3, frames, height, width))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        VideoVae.load(tmp_path)
