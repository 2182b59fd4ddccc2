"""Write golden folders of other sizes than the published set's; the answers in them are our own model's."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from xwam.check.golden_model import golden_model, model_config
from xwam.config import DenoiseConfig
from xwam.denoise.losses import masked_losses
from xwam.denoise.noise import Draw, add_noise, keep_given
from xwam.denoise.sampler import denoise
from xwam.model.xwam import XWAM
from xwam.tensors import Batch, Given, NoiseLevels, Noisy, Velocity

GOLDENS = Path(__file__).parents[1] / "goldens"
SCALE = 0.1  # of the weights in runs and training steps
GIVEN = Given(frames=1, states=1)
THEIRS = {"video": "latents", "state": "proprios", "action": "actions"}


def write_model(folder: Path, name: str, *, num_views: int, num_modalities: int) -> None:
    """One case, with and without depth where there is a depth branch."""
    settings = json.loads((GOLDENS / "model_public_a.json").read_text())
    settings |= {
        "salt": "other:", "num_views": num_views, "num_modalities": num_modalities, "dim": 64, "num_heads": 2,
        "ffn_dim": 72, "action_dim": 7, "proprio_dim": 8, "action_num": 2, "in_dim": 4, "out_dim": 4, "freq_dim": 32,
    }  # fmt: skip
    with torch.device("meta"):
        names = XWAM(model_config(settings)).state_dict()
    settings["shapes"] = {name: list(tensor.shape) for name, tensor in names.items()}
    drawn = draw(num_views)
    golden = {"input/x": drawn["latents"], "input/context": drawn["context"]} | {
        "input/actions": drawn["actions"],
        "input/proprios": drawn["proprios"],
        "input/some/t": np.array([[0, 0.9], [0, 0.4]], np.float32) * 1000,
        "input/some/t_actions": np.repeat(np.array([[300], [200]], np.float32), 8, axis=1),
        "input/some/t_proprios": np.array([[0, 300, 300, 300, 300], [0, 200, 200, 200, 200]], np.float32),
    }
    model = golden_model(settings)
    video, state, action = (torch.from_numpy(golden[f"input/{name}"]) for name in ("x", "proprios", "actions"))
    levels = torch.tensor([[0.9, 0.4], [0.3, 0.2]], dtype=torch.float64)
    with torch.no_grad():
        prompt = model.prompt_keys_values(torch.from_numpy(golden["input/context"][:2]))
        for depth in (False, True)[:num_modalities]:
            output = model(video, state, action, *levels, prompt, depth=depth)
            named = {"video": output.video, "depth": output.depth, "proprio": output.state, "action": output.action}
            branch = "depth" if depth else "nodepth"
            golden |= {f"out/some/cfg0/{branch}/{k}": v.numpy() for k, v in named.items() if v is not None}
    if num_modalities == 2:
        golden["out/some/cfg1/nodepth/video"] = golden["out/some/cfg0/nodepth/video"]
    write(folder, name, settings, golden)


def write_sampler(folder: Path, name: str, model_name: str) -> None:
    """A whole run, one that stops with the actions, and one that we refuse."""
    settings = json.loads((folder / f"model_{model_name}.json").read_text())
    model, drawn = golden_model(settings, scale=SCALE), draw(settings["num_views"])
    has_depth = settings["num_modalities"] > 1
    golden = {f"input/noise_{key}": drawn[f"noise_{key}"] for key in THEIRS.values()}
    golden |= {f"input/{ours}": drawn[key] for ours, key in (("cond_latents", "latents"), ("cond_proprio", "proprios"))}
    golden["input/context"] = drawn["context"]
    clean, noise = noisy(drawn, ""), noisy(drawn, "noise_")
    numbers = {"shift": 3.0, "cfg": 0.0, "run_depth": has_depth, "decoupled": True, "scale": SCALE}
    cases = {
        "whole": numbers | {"steps": 4, "action_steps": 2, "early_stop": False},
        "early": numbers | {"steps": 4, "action_steps": 2, "early_stop": True},
        "few": numbers | {"steps": 2, "action_steps": 4, "early_stop": False},
    }
    prompt = model.prompt_keys_values(torch.from_numpy(drawn["context"][:2]))

    def answer(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        return Velocity(
            *model(*noisy, *levels, prompt, given_frames=1, given_states=1, depth=depth and has_depth,
                   actions_only=not video)
        )  # fmt: skip

    for case in ("whole", "early"):
        config = DenoiseConfig(num_video_steps=4, num_action_steps=2, shift=3.0, guidance=1.0)
        start = keep_given(noise, clean, GIVEN)
        stop = cases[case]["early_stop"]
        for event in denoise(answer, start, config=config, given=GIVEN, actions_only=stop):
            for ours, value in event._asdict().items():
                if value is not None:
                    golden[f"{case}/out/{THEIRS.get(ours, 'depth_latents')}"] = value.numpy().copy()
    write(folder, name, {"model_config": model_name, "cases": cases}, golden)


def write_training(folder: Path, name: str, model_name: str) -> None:
    """One step: levels, noisy inputs, losses, gradient norms."""
    settings = json.loads((folder / f"model_{model_name}.json").read_text())
    model, drawn = golden_model(settings, scale=SCALE), draw(settings["num_views"])
    has_depth = settings["num_modalities"] > 1
    clean, noise = noisy(drawn, ""), noisy(drawn, "noise_")
    levels = NoiseLevels(*torch.tensor([[0.75, 0.5], [0.25, 0.0]], dtype=torch.float64))
    pairs = zip(clean, noise, (levels.video, levels.action, levels.action), strict=True)
    mixed = keep_given(Noisy(*(add_noise(x, n, level) for x, n, level in pairs)), clean, GIVEN)
    shown = torch.ones(2, 2, settings["num_views"], dtype=torch.bool)
    masks = {"proprio_mask": torch.ones_like(clean.state), "action_mask": torch.ones_like(clean.action)}
    masks["action_mask"][:, 5:] = 0
    context = torch.from_numpy(drawn["context"][:2])
    batch = Batch(
        clean.video, torch.from_numpy(drawn["depth_latents"]), clean.state, clean.action, shown, shown,
        masks["proprio_mask"].bool(), masks["action_mask"].bool(), clean.action, context,
    )  # fmt: skip
    prompt = model.prompt_keys_values(context)
    output = model(*mixed, *levels, prompt, given_frames=1, given_states=1, depth=has_depth)
    losses = masked_losses(output, batch, Draw(levels, noise, torch.zeros(len(noise.video), dtype=torch.bool), GIVEN))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    norms = {key: p.grad.norm().item() if p.grad is not None else None for key, p in model.named_parameters()}
    recorded = {f"train/{'proprio' if key == 'state' else key}_loss": loss.item() for key, loss in losses.items()}
    recorded.setdefault("train/depth_loss", 0.0)
    config = {f"{key}_loss_weight": 1.0 for key in ("action", "proprio", "depth")} | {"dct_loss_weight": 0.0}
    numbers = {"scale": SCALE, "config": config, "run_depth": has_depth, "losses": recorded, "total": total.item()}
    tensors = {key: drawn[key] for key in drawn if key != "context"} | {"context_used": drawn["context"][:2]}
    tensors |= {key: mask.numpy() for key, mask in masks.items()}
    tensors |= {f"xt_{theirs}": getattr(mixed, ours).numpy() for ours, theirs in THEIRS.items()}
    tensors |= {"t": timesteps(levels.video, 2), "t_actions": timesteps(levels.action, 8, given=0)}
    golden = {f"step/{key}": value for key, value in tensors.items()}
    write(folder, name, {"step": numbers | {"grad_norm": norms}}, golden)


def draw(num_views: int) -> dict[str, np.ndarray]:
    """Inputs: two samples, two latent frames of six by four cells, eight actions."""
    generator = np.random.default_rng(0)
    shapes = {"latents": (2, 4, 2, num_views, 6, 4), "actions": (2, 8, 7), "proprios": (2, 5, 8)}
    shapes |= {f"noise_{key}": shape for key, shape in shapes.items()} | {"depth_latents": shapes["latents"]}
    shapes["context"] = (4, 7, 32)
    return {key: generator.standard_normal(shape, dtype=np.float32) for key, shape in shapes.items()}


def noisy(drawn: dict[str, np.ndarray], prefix: str) -> Noisy:
    """Video, states and actions out of the drawn inputs."""
    return Noisy(*(torch.from_numpy(drawn[prefix + theirs]) for theirs in THEIRS.values()))


def timesteps(levels: torch.Tensor, count: int, given: int = 1) -> np.ndarray:
    """One per sample and frame or step; the given ones are 0."""
    repeated = (1000 * levels)[:, None].repeat(1, count).float().numpy()
    repeated[:, :given] = 0
    return repeated


def write(folder: Path, name: str, numbers: dict, tensors: dict[str, np.ndarray]) -> None:
    """The two files of a golden."""
    (folder / f"{name}.json").write_text(json.dumps(numbers))
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / f"{name}.safetensors")
