"""Does our transformer answer what the published code answered?

A golden folder holds ``NAME.json`` (numbers of the model, names and shapes of its weights) and ``NAME.safetensors``:
``input/*`` (what was fed), ``out/CASE/cfgG/(no)depth/MODALITY`` (what came out) and ``intermediate/*``. Any widths,
views, grids and action rates are welcome; a model without depth branch too.

Guided outputs are ``unconditional + G (conditional - unconditional)``, except depth; ``cfg0`` is the plain pass.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xwam.check.golden_recipe import read_json, read_tensors, relative_error, weights
from xwam.config import ModelConfig
from xwam.model import rope, tokens
from xwam.model.xwam import XWAM
from xwam.tensors import Velocity

MODALITIES = {"video": "video", "depth": "depth", "proprio": "state", "action": "action"}  # theirs: ours
FRAMES_PER_LATENT = 4


class Levels(NamedTuple):
    """A case's timesteps in our words."""

    video_sigma: Tensor
    action_sigma: Tensor
    given_frames: int
    given_states: int
    given_actions: int


def check_model(
    folder: Path, name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Iterator[tuple[str, float]]:
    """Every golden tensor's name and our largest error, relative to its peak. 1e-5 is the bound to ask for.

    In float64 the answers are held against those that the published code gave in float64.
    """
    kind = {torch.float32: "out", torch.float64: "out64"}[dtype]
    settings, golden = read_json(folder, name), read_tensors(folder, name)
    model = golden_model(settings).to(dtype).to(device)
    inputs = {k: v.astype(np.float64) if dtype == torch.float64 else v for k, v in golden.items() if "input/" in k}
    for prefix in sorted({tuple(k.split("/")[:4]) for k in golden if k.startswith(f"{kind}/")}):
        _, case, guidance, branch = prefix
        depth = branch == "depth" and model.config.has_depth
        with torch.inference_mode():
            output = _run(model, inputs, case, guidance=float(guidance.removeprefix("cfg")), depth=depth)
        for theirs, ours in MODALITIES.items():
            key = "/".join((*prefix, theirs))
            if key in golden:
                yield key, relative_error(getattr(output, ours).cpu().numpy(), golden[key])
    if dtype == torch.float32:
        yield from _check_intermediates(model, golden)


def model_config(settings: Mapping[str, Any]) -> ModelConfig:
    """The golden file's numbers in our words."""
    return ModelConfig(
        num_views=settings["num_views"],
        latent_channels=settings["in_dim"],
        patch_size=tuple(settings["patch_size"]),
        width=settings["dim"],
        ffn_width=settings["ffn_dim"],
        num_heads=settings["num_heads"],
        num_blocks=settings["num_layers"],
        num_depth_blocks=settings["num_extra_layers"] if settings["num_modalities"] > 1 else 0,
        sinusoid_width=settings["freq_dim"],
        text_width=settings["text_dim"],
        text_length=settings["text_len"],
        state_width=settings["proprio_dim"],
        action_width=settings["action_dim"],
        actions_per_frame=settings["action_num"],
        frames_per_latent=FRAMES_PER_LATENT,
    )


def golden_model(settings: Mapping[str, Any], *, scale: float | None = None) -> XWAM:
    """The model of a golden file with its weights drawn; ``scale`` overrides the file's."""
    drawn = weights(settings["shapes"], scale=settings["scale"] if scale is None else scale, salt=settings["salt"])
    with torch.device("meta"):
        model = XWAM(model_config(settings))
    model.load_state_dict({k: torch.from_numpy(v) for k, v in drawn.items()}, assign=True)
    return model


def case_levels(golden: Mapping[str, np.ndarray], case: str) -> Levels:
    """A golden case's timesteps, one per sample or per frame/step, as two levels and what is given.

    Raises ValueError where they are no such thing: a given part must lead, and the rest must share one timestep.
    """
    video, given_frames = _level(golden[f"input/{case}/t"])
    action, given_actions = _level(golden[f"input/{case}/t_actions"])
    state, given_states = _level(golden[f"input/{case}/t_proprios"])
    if not np.array_equal(np.where(state == 0, action, state), action):
        raise ValueError(f"case={case}: the states' timesteps {state} are not the actions' {action}.")
    return Levels(
        torch.from_numpy(video / 1000), torch.from_numpy(action / 1000), given_frames, given_states, given_actions
    )


def _level(timesteps: np.ndarray) -> tuple[np.ndarray, int]:
    """Timesteps ``B`` or ``B steps`` as the last one of each sample (float64) and the number of leading zeros."""
    if timesteps.ndim == 1:
        return timesteps.astype(np.float64), 0
    is_noisy = (timesteps != 0).any(axis=0)
    given = int(is_noisy.argmax()) if is_noisy.any() else 0
    if (timesteps[:, given:] != timesteps[:, -1:]).any():
        raise ValueError(f"timesteps={timesteps}: must be zeros, then one number per sample.")
    return timesteps[:, -1].astype(np.float64), given


def _run(model: XWAM, golden: Mapping[str, np.ndarray], case: str, *, guidance: float, depth: bool) -> Velocity:
    """Our answer for a case. Depth is never guided."""
    device = next(model.parameters()).device
    video, state, action, context = (
        torch.from_numpy(golden[f"input/{name}"]).to(device) for name in ("x", "proprios", "actions", "context")
    )
    levels = case_levels(golden, case)
    sigmas = levels.video_sigma.to(device), levels.action_sigma.to(device)

    def answer(context: Tensor, depth: bool) -> Velocity:
        prompt = model.prompt_keys_values(context)
        given = {name: number for name, number in levels._asdict().items() if name.startswith("given")}
        return model(video, state, action, *sigmas, prompt, **given, depth=depth)

    conditional = answer(context[: len(video)], depth)
    if guidance == 0:
        return conditional
    unconditional = answer(context[len(video) :], False)
    guided = {
        name: getattr(unconditional, name) + guidance * (getattr(conditional, name) - getattr(unconditional, name))
        for name in ("video", "state", "action")
    }
    return conditional._replace(**guided)


def _check_intermediates(model: XWAM, golden: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """The outputs of sub-modules in the plain ``async`` case, and the rotation's angles."""
    prefix = "intermediate/async_cfg0/"
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    if any(key.startswith(prefix) for key in golden):
        with torch.inference_mode():
            _run(model, golden, "async", guidance=0.0, depth=model.config.has_depth)
            grid = _grid(model, golden)
            for name in ("time_embedding", "time_projection"):  # ours has three rows per sample, theirs one per token
                seen[name] = tokens.per_token(seen[name].cpu(), _token_levels(golden, grid))
    for hook in hooks:
        hook.remove()
    for key in sorted(golden):
        if key.startswith(prefix) and key.removeprefix(prefix) in seen:
            found = seen[key.removeprefix(prefix)].cpu().numpy()
            yield key, relative_error(found.reshape(golden[key].shape), golden[key])
    if "intermediate/rope_angle" in golden:
        found = rope.angles(
            rope.positions(_grid(model, golden), FRAMES_PER_LATENT, model.config.actions_per_frame),
            model.config.width // model.config.num_heads,
        ).numpy()
        turn = np.angle(np.exp(1j * (found - golden["intermediate/rope_angle"])))  # goldens are modulo 2 pi
        yield "intermediate/rope_angle", float(np.abs(turn).max())


def _grid(model: XWAM, golden: Mapping[str, np.ndarray]) -> tokens.Grid:
    video, state, action = (torch.from_numpy(golden[f"input/{name}"]) for name in ("x", "proprios", "actions"))
    return tokens.grid_of(video, state, action, model.config.patch_size)


def _token_levels(golden: Mapping[str, np.ndarray], grid: tokens.Grid) -> Tensor:
    levels = case_levels(golden, "async")
    return tokens.token_levels(grid, *levels[2:], torch.device("cpu"))
