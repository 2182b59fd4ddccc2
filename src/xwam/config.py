"""Every setting, as frozen dataclasses (strict_json.py writes and reads them).

Architecture fields have no defaults: each number stands in a preset (presets.py) or beside a
checkpoint (``config.json``).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

NoiseDraw = Literal["asynchronous", "synchronous", "decoupled"]
Mode = Literal["policy", "joint", "forward_dynamics"]
Imagining = Literal["joint", "forward_dynamics"]  # modes with a world: it imagines its own actions, or is told them
Simulator = Literal["metaworld", "robosuite"]  # sim/simulators.py opens them
Dtype = Literal["float32", "bfloat16"]  # of the weights of transformer and decoder
Quantization = Literal["int8-dynamic", "int8-weights", "float8-weights"]  # quantize.py says what they are
TIME_STRIDE, SPACE_STRIDE = 4, 16  # frames and pixels of one latent cell of Wan2.2's autoencoder


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion transformer: Wan's blocks, plus action, state and depth."""

    num_views: int
    latent_channels: int
    patch_size: tuple[int, int, int]  # latent frames, rows, columns of one token
    width: int
    ffn_width: int
    num_heads: int
    num_blocks: int
    num_depth_blocks: int  # copies of the last blocks; 0: no depth branch
    sinusoid_width: int
    text_width: int
    text_length: int
    state_width: int
    action_width: int
    actions_per_frame: int
    frames_per_latent: int  # the VAE's stride in time

    @property
    def has_depth(self) -> bool:
        """True with a depth branch."""
        return self.num_depth_blocks > 0

    def __post_init__(self) -> None:
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ValueError(
                f"width={self.width}, num_heads={self.num_heads}: width must be num_heads times an even number."
            )
        if not 0 <= self.num_depth_blocks <= self.num_blocks:
            raise ValueError(f"num_depth_blocks={self.num_depth_blocks} must be in 0..num_blocks={self.num_blocks}.")


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The video autoencoder: diffusers' ``AutoencoderKLWan`` with these numbers."""

    base_width: int  # channels of the encoder's first level
    decoder_base_width: int
    latent_channels: int
    width_multipliers: tuple[int, ...]  # of the base width, level by level
    num_res_blocks: int  # of each level


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text encoder: transformers' ``UMT5EncoderModel`` with these numbers."""

    tokenizer: Literal["bytes", "sentencepiece"]
    vocab_size: int
    width: int
    head_width: int
    ffn_width: int
    num_blocks: int
    num_heads: int


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a clip holds. Frame ``k`` is seen at action step ``k * actions_per_frame``."""

    num_frames: int
    height_px: int
    width_px: int
    action_horizon: int
    actions_per_frame: int
    action_hz: float
    crop: float  # share of the image kept by the crop of training (random) and inference (centre)
    antialias: bool = False  # average what is made smaller; False: two pixels of it, as the published model was trained

    @property
    def num_states(self) -> int:
        """One state per frame."""
        return self.num_frames

    @property
    def frame_hz(self) -> float:
        """Frames per second of the imagined video."""
        return self.action_hz / self.actions_per_frame

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop={self.crop}: must be above 0 and at most 1, a share of the image.")
        if self.num_frames % TIME_STRIDE != 1:
            raise ValueError(f"num_frames={self.num_frames}: the VAE takes 1 + 4k frames (1, 5, 9, 13, …).")
        if self.action_horizon != (self.num_frames - 1) * self.actions_per_frame:
            raise ValueError(
                f"action_horizon={self.action_horizon} must be (num_frames - 1) * actions_per_frame = "
                f"{(self.num_frames - 1) * self.actions_per_frame}: actions end where the video ends."
            )


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How training draws noise levels."""

    draw: NoiseDraw
    clean_action_ratio: float  # share of clips whose actions are clean: they teach the video alone
    shift: float  # towards more noise: level = shift u / (1 + (shift - 1) u), u uniform
    max_prefix: int  # at most so many leading actions of a sample are given, for real-time chunking; 0: none


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """How inference spends its steps."""

    num_video_steps: int  # calls of the network until the world is clean
    num_action_steps: int  # the first of them, after which the actions are
    shift: float  # of the levels they stop at: more of them where there is much noise
    guidance: float  # 1: the plain conditional pass
    depth_at_zero: bool = False  # True: one more call, at level 0, for the depth alone; False: that of the last call
    reuse_every: int = 1  # after the actions, one step in so many runs the network, the others reuse its answer
    hold_lacking: bool = False  # what a robot lacks stays as in training; False: left to the network, as published
    far_share: float = 0.01  # far end of a camera's range (share of its inverse depths) imagined as "unknown or beyond"

    def __post_init__(self) -> None:
        if not 0 < self.num_action_steps <= self.num_video_steps:
            raise ValueError(
                f"num_action_steps={self.num_action_steps} must be in 1..num_video_steps={self.num_video_steps}: "
                "actions may finish before the video, never after it."
            )
        if self.reuse_every < 1:
            raise ValueError(f"reuse_every={self.reuse_every}: must be 1 (every step runs the network) or more.")
        if not 0 <= self.far_share < 1:
            raise ValueError(f"far_share={self.far_share}: must be in 0..1, a share; larger: fewer points in the void.")
        if self.guidance <= 0:
            raise ValueError(
                f"guidance={self.guidance}: must be above 0; 1 is the plain pass (the release writes 0 for it)."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training run."""

    num_steps: int
    batch_size: int  # clips of one step, on all processes together
    learning_rate: float  # its peak; it rises in a line, then falls as a cosine to a hundredth at the last step
    weight_decay: float  # of matrices alone
    num_warmup_steps: int
    max_gradient_norm: float  # longer gradients are cut to it
    ema_decay: float  # of the averaged weights, per step; the policy is made of these
    text_dropout: float  # share of clips that train with the empty prompt
    video_loss_weight: float
    action_loss_weight: float
    state_loss_weight: float
    depth_loss_weight: float
    seed: int
    compile: bool  # the blocks, by torch.compile
    log_every: int  # in steps, as the next two
    validate_every: int  # 0: never
    save_every: int
    keep_every: int = 0  # checkpoints of steps that are multiples of it stay for good; 0: the newest alone


@dataclass(frozen=True, kw_only=True)
class Config:
    """One whole system: what a preset names and what ``config.json`` of a checkpoint holds."""

    name: str
    view_names: tuple[str, ...]
    modes: tuple[Mode, ...]  # what the checkpoint was trained to answer
    model: ModelConfig
    vae: VaeConfig
    text: TextConfig
    clip: ClipConfig
    noise: NoiseConfig
    denoise: DenoiseConfig
    train: TrainConfig

    @property
    def depth_is_views(self) -> bool:
        """True for a model without depth branch and twice the views: depth is denoised as more video (an ablation)."""
        return not self.model.has_depth and self.model.num_views == 2 * len(self.view_names)

    @property
    def num_latent_frames(self) -> int:
        """Latent frames of one clip and view."""
        return 1 + (self.clip.num_frames - 1) // self.model.frames_per_latent

    @property
    def latent_grid(self) -> tuple[int, int]:
        """Rows and columns of latent cells of one picture."""
        return self.clip.height_px // SPACE_STRIDE, self.clip.width_px // SPACE_STRIDE

    def __post_init__(self) -> None:
        pairs = [
            ("model.latent_channels", self.model.latent_channels, "vae.latent_channels", self.vae.latent_channels),
            ("model.text_width", self.model.text_width, "text.width", self.text.width),
            ("model.frames_per_latent", self.model.frames_per_latent, "the VAE's stride in time", TIME_STRIDE),
        ]
        rates = self.model.actions_per_frame, self.clip.actions_per_frame
        pairs.append(("model.actions_per_frame", rates[0], "clip.actions_per_frame", rates[1]))
        for side, patch in zip(("height_px", "width_px"), self.model.patch_size[1:], strict=True):
            pixels, step = vars(self.clip)[side], SPACE_STRIDE * patch
            if pixels < step or pixels % step:
                raise ValueError(f"clip.{side}={pixels}: must be a multiple of {step}, the side of one token.")
        if not self.depth_is_views:
            pairs.append(("model.num_views", self.model.num_views, "number of view_names", len(self.view_names)))
        if not 0 <= self.noise.max_prefix < self.clip.action_horizon:
            raise ValueError(
                f"noise.max_prefix={self.noise.max_prefix} must be in 0..{self.clip.action_horizon - 1} "
                "(clip.action_horizon - 1): at least one action must be left to predict."
            )
        if not 0 <= self.noise.clean_action_ratio <= 1:
            raise ValueError(f"noise.clean_action_ratio={self.noise.clean_action_ratio} must be in 0..1, a share.")
        for left, left_value, right, right_value in pairs:
            if left_value != right_value:
                raise ValueError(f"{left}={left_value} must equal {right}={right_value}.")


def with_denoise_steps(
    config: Config, num_action_steps: int | None = None, num_video_steps: int | None = None
) -> Config:
    """The same system with so many steps for an answer; None: as it has them. Raises ValueError as DenoiseConfig."""
    given = {"num_action_steps": num_action_steps, "num_video_steps": num_video_steps}
    changes: dict[str, Any] = {name: steps for name, steps in given.items() if steps is not None}
    return dataclasses.replace(config, denoise=dataclasses.replace(config.denoise, **changes))
