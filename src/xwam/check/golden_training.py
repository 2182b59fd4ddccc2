"""Do our training steps come to what the published ones came to: noisy inputs, losses, gradients?

``train_NAME.*``: steps with all their noise, the losses, and the norm of every parameter's gradient. The network's
weights are drawn (golden_recipe.py) for the model of ``model_NAME.json``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xwam.check.golden_denoise import GIVEN, settings_of_model
from xwam.check.golden_model import golden_model
from xwam.check.golden_recipe import read_json, read_tensors, relative_error
from xwam.denoise.losses import masked_losses, weighted_sum
from xwam.denoise.noise import Draw
from xwam.model.xwam import XWAM
from xwam.tensors import Batch, NoiseLevels, Noisy
from xwam.train import step

NOISE_NAMES = {"video": "latents", "state": "proprios", "action": "actions"}  # ours: theirs
LOSS_NAMES = {"video": "video", "state": "proprio", "action": "action", "depth": "depth"}


def check_training(folder: Path, name: str, *, device: str = "cpu") -> Iterator[tuple[str, float]]:
    """Noisy inputs, losses and gradient norms of every case, relative errors. 1e-5 is the bound to ask for.

    Gradient norms are relative to the largest one. Cases with the frequency-domain action loss, which no published
    configuration uses and we do not have, give ``CASE/gradient/not compared``; their other losses are compared.
    """
    golden = read_tensors(folder, name)
    model_settings = settings_of_model(folder, name.removeprefix("train_"))
    for case, numbers in read_json(folder, name).items():
        model = golden_model(model_settings, scale=numbers["scale"]).to(device)
        yield from _check_training_step(case, numbers, golden, model)


def _check_training_step(
    case: str, numbers: Mapping[str, Any], golden: Mapping[str, np.ndarray], model: XWAM
) -> Iterator[tuple[str, float]]:
    device = next(model.parameters()).device
    mine = [key for key in golden if key.startswith(case)]
    tensors = {key.removeprefix(f"{case}/"): torch.from_numpy(golden[key]).to(device) for key in mine}
    batch, drawn = _golden_batch(tensors), _golden_draw(tensors)
    noisy = step.mixed(batch, drawn)
    for ours, theirs in NOISE_NAMES.items():
        yield f"{case}/xt_{theirs}", relative_error(getattr(noisy, ours).cpu().numpy(), golden[f"{case}/xt_{theirs}"])

    prompt = model.prompt_keys_values(batch.prompt)
    depth = numbers["run_depth"] and model.config.has_depth
    output = model(*noisy, *drawn.levels, prompt, given_frames=1, given_states=1, depth=depth)
    losses = masked_losses(output, batch, drawn)
    largest = max(numbers["losses"].values())
    for ours, loss in losses.items():
        golden_loss = numbers["losses"][f"train/{LOSS_NAMES[ours]}_loss"]
        yield f"{case}/{ours}_loss", abs(loss.item() - golden_loss) / largest

    config = numbers["config"]
    weights = {"video": 1.0} | {k: config[f"{v}_loss_weight"] for k, v in LOSS_NAMES.items() if k != "video"}
    total = weighted_sum(losses, {key: weights[key] for key in losses})
    frequency = config["dct_loss_weight"] * numbers["losses"].get("train/dct_loss", 0.0)
    yield f"{case}/total", abs(total.item() + frequency - numbers["total"]) / numbers["total"]
    if frequency:
        yield f"{case}/gradient/not compared", 0.0
        return
    total.backward()
    norms = {key: value or 0.0 for key, value in numbers["grad_norm"].items()}  # None: not part of this loss
    peak = max(norms.values())
    for key, parameter in model.named_parameters():
        found = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        yield f"{case}/gradient/{key}", abs(found - norms.get(key, 0.0)) / peak


def _golden_batch(tensors: Mapping[str, Tensor]) -> Batch:
    """A golden case as a batch; all its pictures are real."""
    batch_size, _, num_latents, num_views = tensors["latents"].shape[:4]
    all_real = torch.ones(batch_size, num_latents, num_views, dtype=torch.bool, device=tensors["latents"].device)
    return Batch(
        video=tensors["latents"],
        depth=tensors["depth_latents"],
        state=tensors["proprios"],
        action=tensors["actions"],
        video_mask=all_real,
        depth_mask=all_real,
        state_mask=tensors["proprio_mask"].bool(),
        action_mask=tensors["action_mask"].bool(),
        executed=tensors["actions"],
        prompt=tensors["context_used"],
    )


def _golden_draw(tensors: Mapping[str, Tensor]) -> Draw:
    """Timesteps of frames and steps as one level per sample: the last one is never given."""
    levels = NoiseLevels(video=tensors["t"][:, -1].double() / 1000, action=tensors["t_actions"][:, -1].double() / 1000)
    noise = Noisy(*(tensors[f"noise_{theirs}"] for theirs in NOISE_NAMES.values()))
    return Draw(levels, noise, torch.zeros(len(noise.video), dtype=torch.bool), GIVEN)
