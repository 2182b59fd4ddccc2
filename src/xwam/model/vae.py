"""Video <-> latents: Wan2.2's causal video autoencoder, diffusers' ``AutoencoderKLWan``, at every size.

In: images in [-1, 1], ``B 3 T H W`` with ``T = 1 + 4k`` and ``H, W`` multiples of 16. Out: normalised latents
``(mean - latent_mean) / latent_std``, ``B C F h w`` with ``F = 1 + (T - 1) / 4`` and ``h, w = H/16, W/16``.
It is causal in time: latent frame 0 depends on frame 0 alone, so one image is enough at inference.

Depth images (encode.py) go through the same autoencoder as RGB.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, patchify, unpatchify
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xwam.config import SPACE_STRIDE, TIME_STRIDE, VaeConfig
from xwam.files import whole_file, write_text
from xwam.model.shards import weight_files
from xwam.model.vae_layers import lighten
from xwam.strict_json import load, to_json

PIXEL_PATCH = 2  # pixels are folded into channels before the first convolution: part of SPACE_STRIDE

# Mean and standard deviation of the 48 latent channels of the published Wan2.2 autoencoder.
# fmt: off
WAN22_LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
WAN22_LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on


class VideoVae(nn.Module):
    """Thin over ``AutoencoderKLWan``. Its decoder may be absent (``load(..., encoder_only=True)``)."""

    latent_mean: Float[Tensor, " C"]
    latent_std: Float[Tensor, " C"]

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = AutoencoderKLWan(
            base_dim=config.base_width,
            decoder_base_dim=config.decoder_base_width,
            z_dim=config.latent_channels,
            dim_mult=list(config.width_multipliers),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=[False, True, True],
            is_residual=True,
            in_channels=3 * PIXEL_PATCH**2,
            out_channels=3 * PIXEL_PATCH**2,
            patch_size=PIXEL_PATCH,
            scale_factor_temporal=TIME_STRIDE,
            scale_factor_spatial=SPACE_STRIDE,
        )
        lighten(self.vae)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    @torch.no_grad()
    def set_latent_stats(self, mean: Float[Tensor, " C"], std: Float[Tensor, " C"]) -> None:
        """Set the numbers that make latents zero-mean and unit-variance, one pair per channel."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    # --- use ---------------------------------------------------------------------------------------------------

    def encode(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C F h w"]:
        """Normalised latents (the mean of the posterior). Raises ValueError for sizes the strides do not divide."""
        return self.normalize(self.posterior(video)[0])

    def decode(self, latents: Float[Tensor, "B C F h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Images in [-1, 1] from normalised latents."""
        return self.reconstruct(self.denormalize(latents)).clamp(-1, 1)

    def normalize(self, latents: Float[Tensor, "B C F h w"]) -> Float[Tensor, "B C F h w"]:
        """Latents as the autoencoder makes them to zero mean, unit variance."""
        return (latents - self.latent_mean.view(-1, 1, 1, 1)) / self.latent_std.view(-1, 1, 1, 1)

    def denormalize(self, latents: Float[Tensor, "B C F h w"]) -> Float[Tensor, "B C F h w"]:
        """The inverse of normalize."""
        return latents * self.latent_std.view(-1, 1, 1, 1) + self.latent_mean.view(-1, 1, 1, 1)

    # --- training ----------------------------------------------------------------------------------------------

    def posterior(
        self, video: Float[Tensor, "B 3 T H W"]
    ) -> tuple[Float[Tensor, "B C F h w"], Float[Tensor, "B C F h w"]]:
        """Mean and log-variance of the latents, not normalised; differentiable."""
        _check_size(video)
        pixels = patchify(video, PIXEL_PATCH)
        first, rest = pixels[:, :, :1], pixels[:, :, 1:]
        # The library keeps this memory of past frames on the module; a local one lets threads share the module.
        memory = _memory(self.vae.encoder)
        chunks = [first, *(rest.split(TIME_STRIDE, dim=2) if rest.shape[2] else ())]
        # The library's last convolution reads all chunks at once; chunk by chunk, one frame gives exactly latent 0.
        hidden = [self.vae.quant_conv(self.vae.encoder(chunk, feat_cache=memory, feat_idx=[0])) for chunk in chunks]
        mean, log_variance = torch.cat(hidden, dim=2).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def reconstruct(self, latents: Float[Tensor, "B C F h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Images from latents that are not normalised; differentiable, not clamped to [-1, 1]."""
        if not self.has_decoder:
            raise ValueError("this autoencoder was loaded with encoder_only=True: load it whole to decode.")
        memory = _memory(self.vae.decoder)
        hidden = self.vae.post_quant_conv(latents.to(self.vae.post_quant_conv.weight.dtype))
        frames = [
            self.vae.decoder(frame, feat_cache=memory, feat_idx=[0], first_chunk=index == 0)
            for index, frame in enumerate(hidden.split(1, dim=2))
        ]
        return unpatchify(torch.cat(frames, dim=2), PIXEL_PATCH).to(latents.dtype)

    @property
    def has_decoder(self) -> bool:
        """False when it was loaded with ``encoder_only=True``."""
        return self.vae.decoder is not None

    def set_decoder_dtype(self, dtype: torch.dtype) -> "VideoVae":
        """Let the decoder work in this precision; latents and images stay what they are. Returns itself.

        The encoder is left alone: actions depend on its latents.
        """
        for part in (self.vae.decoder, self.vae.post_quant_conv):
            if part is not None:
                part.to(dtype)
        return self

    # --- files -------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; each file appears whole or not at all."""
        if not self.has_decoder:
            raise ValueError("this autoencoder was loaded with encoder_only=True: save the whole one.")
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with whole_file(folder / "model.safetensors") as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        write_text(folder / "config.json", to_json(self.config))

    @classmethod
    def load(cls, folder: Path, *, encoder_only: bool = False) -> "VideoVae":
        """Read what save wrote, in evaluation mode. A policy that never shows the world needs no decoder."""
        config = load(VaeConfig, folder / "config.json")
        weights: dict[str, Tensor] = {}
        for path in weight_files(folder / "model.safetensors"):
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if not (encoder_only and is_decoder_name(name))]  # noqa: SIM118
                weights |= {name: file.get_tensor(name).float() for name in names}
        return cls.from_weights(config, weights, encoder_only=encoder_only)

    @classmethod
    def from_weights(
        cls, config: VaeConfig, weights: Mapping[str, Tensor], *, encoder_only: bool = False
    ) -> "VideoVae":
        """Build around given tensors (names as in state_dict), in evaluation mode, without drawing random ones."""
        with torch.device("meta"):
            vae = cls(config)
        if encoder_only:
            vae.vae.register_module("decoder", None)
            vae.vae.register_module("post_quant_conv", None)
        vae.load_state_dict(dict(weights), strict=True, assign=True)
        return vae.eval()


def encoder_hash(folder: Path) -> str:
    """Sixteen digits that change with anything latents depend on: what save wrote there, but for the decoder."""
    digest = hashlib.sha256()
    for path in weight_files(folder / "model.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in sorted(name for name in file.keys() if not is_decoder_name(name)):  # noqa: SIM118
                digest.update(name.encode())
                digest.update(file.get_tensor(name).flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def is_decoder_name(name: str) -> bool:
    """True for tensors that only decoding needs."""
    return name.startswith(("vae.decoder.", "vae.post_quant_conv."))


_INSIDE_RESIDUAL = {
    ".residual.0.": ".norm1.",
    ".residual.2.": ".conv1.",
    ".residual.3.": ".norm2.",
    ".residual.6.": ".conv2.",
    ".shortcut.": ".conv_shortcut.",
}
_OUTSIDE_LEVELS = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
    (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
)


def diffusers_name(official: str) -> str:
    """The name that diffusers gives to a tensor of Wan2.2's own autoencoder checkpoint."""
    name = official
    for pattern, replacement in _OUTSIDE_LEVELS:
        name = re.sub(pattern, replacement, name)
    level = re.match(r"^(encoder|decoder)\.(down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.*)$", name)
    if level:
        side, way, block, layer, rest = level.groups()
        is_resampler = rest.startswith(("resample.", "time_conv."))
        inner = f"{way}sampler" if is_resampler else f"resnets.{layer}"
        name = f"{side}.{way}_blocks.{block}.{inner}.{rest}"
    for old, new in _INSIDE_RESIDUAL.items():
        name = name.replace(old, new)
    return name


def _memory(part: nn.Module) -> list[Tensor | str | None]:
    """One empty slot per causal convolution, which the library fills with the frames it must remember."""
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in part.modules())


def _check_size(video: Tensor) -> None:
    num_frames, height, width = video.shape[-3:]
    if num_frames % TIME_STRIDE != 1:
        raise ValueError(f"num_frames={num_frames}: the autoencoder takes 1 + {TIME_STRIDE}k frames (1, 5, 9, …).")
    if height % SPACE_STRIDE or width % SPACE_STRIDE:
        raise ValueError(f"height={height}, width={width}: both must be multiples of {SPACE_STRIDE} pixels.")
