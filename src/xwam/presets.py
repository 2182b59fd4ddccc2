"""Named configurations: the same classes from a laptop to the released weights; only numbers differ.

``debug`` runs every feature in seconds; ``mini`` has one camera and learns in minutes, for comparisons of many
trainings; ``tiny`` is the shipped checkpoint (2 CPU cores); ``small`` wants one GPU; ``bench_small`` is the speed
yardstick; ``wan22_5b`` is the published model.
"""

from dataclasses import replace

from xwam.config import ClipConfig, Config, DenoiseConfig, ModelConfig, NoiseConfig, TextConfig, TrainConfig, VaeConfig
from xwam.strict_json import suggest

METAWORLD_VIEWS = ("left", "right", "wrist")
ROBOCASA_VIEWS = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")

_ANS = NoiseConfig(draw="asynchronous", clean_action_ratio=0.5, shift=5.0, max_prefix=0)
_DENOISE = DenoiseConfig(num_video_steps=50, num_action_steps=10, shift=5.0, guidance=1.0)

_TINY = Config(
    name="tiny",
    view_names=METAWORLD_VIEWS,
    modes=("policy", "joint", "forward_dynamics"),
    model=ModelConfig(
        num_views=3,
        latent_channels=32,
        patch_size=(1, 2, 2),
        width=192,
        ffn_width=640,
        num_heads=4,
        num_blocks=8,
        num_depth_blocks=2,
        sinusoid_width=128,
        text_width=64,
        text_length=64,
        state_width=16,
        action_width=14,
        actions_per_frame=4,
        frames_per_latent=4,
    ),
    vae=VaeConfig(
        base_width=24,
        decoder_base_width=24,
        latent_channels=32,
        width_multipliers=(1, 2, 4, 4),
        num_res_blocks=1,
    ),
    text=TextConfig(
        tokenizer="bytes",
        vocab_size=384,
        width=64,
        head_width=16,
        ffn_width=128,
        num_blocks=2,
        num_heads=4,
    ),
    clip=ClipConfig(
        num_frames=9,
        height_px=128,
        width_px=128,
        action_horizon=32,
        actions_per_frame=4,
        action_hz=20.0,
        crop=0.95,
        antialias=True,
    ),
    noise=replace(_ANS, max_prefix=8),
    denoise=replace(  # a small model is done after few steps; what lies at the far end is imagined too coarsely
        _DENOISE, num_video_steps=10, num_action_steps=5, far_share=0.04, hold_lacking=True
    ),
    train=TrainConfig(
        num_steps=20_000,
        batch_size=32,
        learning_rate=1e-3,
        weight_decay=0.01,
        num_warmup_steps=200,
        max_gradient_norm=1.0,
        ema_decay=0.999,
        text_dropout=0.1,
        video_loss_weight=1.0,
        action_loss_weight=1.0,
        state_loss_weight=1.0,
        depth_loss_weight=1.0,
        seed=0,
        compile=True,
        log_every=20,
        validate_every=1000,
        save_every=500,
    ),
)

_DEBUG = replace(
    _TINY,
    name="debug",
    model=replace(
        _TINY.model, width=32, ffn_width=64, num_heads=2, num_blocks=3, num_depth_blocks=1, latent_channels=4,
        text_width=16, text_length=24, sinusoid_width=32,
    ),
    vae=replace(_TINY.vae, base_width=4, decoder_base_width=4, latent_channels=4, width_multipliers=(1, 1, 1, 1)),
    text=replace(_TINY.text, width=16, head_width=8, num_heads=2, ffn_width=32, num_blocks=1),
    clip=replace(_TINY.clip, num_frames=5, height_px=32, width_px=32, action_horizon=16),
    noise=replace(_ANS, max_prefix=4),
    denoise=replace(_TINY.denoise, num_video_steps=4, num_action_steps=2),
    train=replace(
        _TINY.train, num_steps=8, batch_size=2, num_warmup_steps=2, compile=False, log_every=1, validate_every=4,
        save_every=4, ema_decay=0.9,
    ),
)  # fmt: skip

_MINI = replace(
    _TINY,
    name="mini",
    view_names=METAWORLD_VIEWS[1:2],
    model=replace(_TINY.model, num_views=1, width=128, ffn_width=448, num_blocks=6),
    train=replace(_TINY.train, num_steps=1000, batch_size=16, num_warmup_steps=100, ema_decay=0.99),
)

_SMALL = replace(
    _TINY,
    name="small",
    model=replace(
        _TINY.model, width=384, ffn_width=1536, num_heads=8, num_blocks=12, num_depth_blocks=4, latent_channels=32,
        text_width=256, sinusoid_width=256,
    ),  # twice as wide as tiny, so that it may start from it
    vae=replace(_TINY.vae, base_width=48, decoder_base_width=64, latent_channels=32, num_res_blocks=2),
    text=replace(_TINY.text, width=256, head_width=32, num_heads=8, ffn_width=640, num_blocks=4),
    train=replace(
        _TINY.train, num_steps=100_000, batch_size=256, learning_rate=3e-4, num_warmup_steps=1000, ema_decay=0.9995
    ),
)  # fmt: skip

_WAN22_5B = Config(
    name="wan22_5b",
    view_names=ROBOCASA_VIEWS,
    modes=("policy", "joint", "forward_dynamics"),
    model=ModelConfig(
        num_views=3,
        latent_channels=48,
        patch_size=(1, 2, 2),
        width=3072,
        ffn_width=14336,
        num_heads=24,
        num_blocks=30,
        num_depth_blocks=10,
        sinusoid_width=256,
        text_width=4096,
        text_length=512,
        state_width=16,
        action_width=14,
        actions_per_frame=4,
        frames_per_latent=4,
    ),
    vae=VaeConfig(
        base_width=160,
        decoder_base_width=256,
        latent_channels=48,
        width_multipliers=(1, 2, 4, 4),
        num_res_blocks=2,
    ),
    text=TextConfig(
        tokenizer="sentencepiece",
        vocab_size=256384,
        width=4096,
        head_width=64,
        ffn_width=10240,
        num_blocks=24,
        num_heads=64,
    ),
    clip=ClipConfig(
        num_frames=9,
        height_px=256,
        width_px=320,
        action_horizon=32,
        actions_per_frame=4,
        action_hz=20.0,
        crop=0.95,
    ),
    noise=_ANS,
    denoise=_DENOISE,
    train=replace(
        _TINY.train,
        num_steps=20_000,
        batch_size=32,
        learning_rate=1e-5,
        num_warmup_steps=1000,
        ema_decay=0.9999,
        action_loss_weight=1.0,
    ),
)

_BENCH_SMALL = replace(
    _WAN22_5B,
    name="bench_small",
    model=replace(
        _WAN22_5B.model, width=384, ffn_width=1792, num_heads=6, num_blocks=12, num_depth_blocks=4, text_width=512
    ),
    vae=replace(_WAN22_5B.vae, base_width=24, decoder_base_width=32),
    text=replace(_WAN22_5B.text, width=512, ffn_width=1280, num_heads=8, num_blocks=4),
)

PRESETS: dict[str, Config] = {p.name: p for p in (_DEBUG, _MINI, _TINY, _SMALL, _BENCH_SMALL, _WAN22_5B)}


def preset(name: str) -> Config:
    """The configuration of that name. Raises ValueError with the nearest names."""
    if name not in PRESETS:
        raise ValueError(f"preset={name!r}: {suggest(name, PRESETS)}")
    return PRESETS[name]
