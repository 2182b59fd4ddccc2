"""Does our denoising answer what the published one answered: schedules, levels, whole runs?

``schedules.json``        levels and timesteps, exact
``ans_statistics.json``   statistics of the levels that training draws (compared with fresh draws, so only closely)
``sampler_NAME.*``        whole runs, with the tensors given to the network at every step

The network's weights are drawn (golden_recipe.py) for the model of ``model_NAME.json``.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from xwam.check.golden_model import golden_model
from xwam.check.golden_recipe import read_json, read_tensors, relative_error
from xwam.config import DenoiseConfig, NoiseConfig, NoiseDraw
from xwam.denoise.noise import draw_levels, keep_given
from xwam.denoise.sampler import ActionsReady, WorldReady, denoise
from xwam.denoise.solvers import schedule
from xwam.model.prompt import PromptKeysValues
from xwam.model.xwam import XWAM
from xwam.tensors import Given, NoiseLevels, Noisy, Velocity

GIVEN = Given(frames=1, states=1)
OUTPUTS = {"action": "actions", "state": "proprios", "video": "latents", "depth": "depth_latents"}  # ours: theirs
STATISTICS_BOUND = 5e-3  # of means, spreads and quantiles of a million draws
NUM_DRAWS = 1_000_000


# --- levels -----------------------------------------------------------------------------------------------------


def check_schedules(folder: Path, name: str = "schedules") -> Iterator[tuple[str, float]]:
    """The largest difference of levels and of timesteps, for every golden schedule: 0 is the bound to ask for."""
    for case, golden in read_json(folder, name).items():
        num_steps, shift_amount = case.removeprefix("steps").split("_shift")
        found = schedule(int(num_steps), float(shift_amount))
        timesteps = np.round(1000 * np.array(found.network_sigmas))
        sigmas = np.array(found.sigmas, np.float32) - np.array(golden["sigmas"], np.float32)
        yield f"{case}/sigmas", float(np.abs(sigmas).max())
        yield f"{case}/timesteps", float(np.abs(timesteps - golden["timesteps"]).max())


def check_levels(folder: Path, name: str = "ans_statistics") -> Iterator[tuple[str, float]]:
    """Differences between the statistics of a million draws and the golden ones; ask for STATISTICS_BOUND.

    Draws that no published configuration uses, and that we do not have, give ``DRAW/not compared``.
    """
    kinds: dict[str, NoiseDraw] = {
        "default_joint": "asynchronous",
        "independent": "decoupled",
        "sync_uniform": "synchronous",
    }
    for theirs, golden in read_json(folder, name).items():
        if theirs not in kinds:
            yield f"{theirs}/not compared", 0.0
            continue
        config = NoiseConfig(draw=kinds[theirs], clean_action_ratio=0.5, shift=5.0, max_prefix=0)
        levels = draw_levels(NUM_DRAWS, config, torch.Generator().manual_seed(0))
        video, action = (level.double().numpy() for level in levels)
        yield f"{theirs}/P_t_action_eq_0", abs((action == 0).mean() - golden["P_t_action_eq_0"])
        yield f"{theirs}/P_video_lt_action", abs((video < action).mean() - golden["P_video_lt_action"])
        yield f"{theirs}/corr", abs(np.corrcoef(video, action)[0, 1] - golden["corr"])
        noisy = action > 0
        groups = {
            "t_video": video,
            "t_action": action if noisy.all() else None,  # else half of it is 0, and its quantiles jump
            "t_action_given_noisy": action[noisy],
            "t_video_given_noisy": video[noisy],
            "t_video_given_clean": video[~noisy],
        }
        for group, values in groups.items():
            if values is not None and group in golden:
                yield f"{theirs}/{group}", _statistics_error(values, golden[group])


def _statistics_error(values: np.ndarray, golden: Mapping[str, Any]) -> float:
    quantiles = {float(share): value for share, value in golden["quantiles"].items()}
    # Where nearly no values lie, a quantile of a million draws is not sharp; the outer ones are left out.
    inner = {share: value for share, value in quantiles.items() if 0.01 <= share <= 0.99}
    errors = [abs(values.mean() - golden["mean"]), abs(values.std() - golden["std"])]
    found = np.quantile(values, list(inner))
    return float(max(*errors, *np.abs(found - list(inner.values()))))


# --- whole runs -------------------------------------------------------------------------------------------------


def check_sampler(folder: Path, name: str, *, device: str = "cpu") -> Iterator[tuple[str, float]]:
    """Every tensor of every run, with our largest error relative to its peak. 1e-5 is the bound to ask for.

    Runs with fewer video than action steps are refused by us: they yield ``CASE/refused``, 0 when we do.
    """
    settings, golden = read_json(folder, name), read_tensors(folder, name)
    model_settings = settings_of_model(folder, settings["model_config"])
    for case, numbers in settings["cases"].items():
        if numbers["steps"] < numbers["action_steps"] and numbers["decoupled"]:
            yield f"{case}/refused", float(_accepts(numbers))
            continue
        model = golden_model(model_settings, scale=numbers["scale"]).to(device)
        yield from _check_run(case, numbers, golden, model)


class Call(NamedTuple):
    """What the network was given in one step."""

    noisy: Noisy
    levels: NoiseLevels


def _check_run(
    case: str, numbers: Mapping[str, Any], golden: Mapping[str, np.ndarray], model: XWAM
) -> Iterator[tuple[str, float]]:
    noise = f"{case}/noise" if f"{case}/noise_latents" in golden else "input/noise"
    device = next(model.parameters()).device
    keys = [f"{noise}_{name}" for name in ("latents", "proprios", "actions")]
    keys += ["input/cond_latents", "input/cond_proprio", "input/context"]
    *noises, first_video, first_state, contexts = (torch.from_numpy(golden[key]).to(device) for key in keys)
    start = Noisy(*noises)
    observed = start._replace(video=first_video, state=first_state)
    start = keep_given(start, observed, GIVEN)
    prompts = [model.prompt_keys_values(part) for part in contexts.split(len(start.video))]
    calls: list[Call] = []

    def answer(prompt: PromptKeysValues, noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        calls.append(Call(noisy, levels))
        return model(
            *noisy,
            *levels,
            prompt,
            given_frames=GIVEN.frames,
            given_states=GIVEN.states,
            depth=depth and numbers["run_depth"] and model.config.has_depth,
            actions_only=not video,
        )

    events = list(
        denoise(
            partial(answer, prompts[0]),
            start,
            config=_denoise_config(numbers),
            given=GIVEN,
            actions_only=numbers["early_stop"],
            unconditional=partial(answer, prompts[1]),
        )
    )
    yield from _check_events(case, events, golden)
    yield from _unanswered(case, events, calls, golden)
    yield from _check_calls(case, calls, golden)


def _check_events(
    case: str, events: list[ActionsReady | WorldReady], golden: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    for event in events:
        for ours, found in event._asdict().items():
            key = f"{case}/out/{OUTPUTS[ours]}"
            if key in golden and found is not None:
                yield f"{key} of {type(event).__name__}", relative_error(found.cpu().numpy(), golden[key])


def _unanswered(
    case: str, events: list[ActionsReady | WorldReady], calls: list[Call], golden: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """What was recorded and nothing of ours stands beside: infinitely wrong. A run that stops early has no world."""
    answered = {OUTPUTS[name] for event in events for name, found in event._asdict().items() if found is not None}
    world = set() if any(isinstance(event, WorldReady) for event in events) else {"latents", "depth_latents"}
    for name in OUTPUTS.values():
        if f"{case}/out/{name}" in golden and name not in answered | world:
            yield f"{case}/out/{name} is missing", float("inf")
    recorded = sum(key.startswith(f"{case}/step") and key.endswith("/x") for key in golden)
    if len(calls) < recorded:
        yield f"{case}/step{len(calls):02d} is missing", float("inf")


def _check_calls(case: str, calls: list[Call], golden: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    for index, (noisy, levels) in enumerate(calls):
        prefix = f"{case}/step{index:02d}"
        if f"{prefix}/x" not in golden:
            return
        for ours, theirs in (("video", "x"), ("state", "proprios"), ("action", "actions")):
            yield f"{prefix}/{theirs}", relative_error(getattr(noisy, ours).cpu().numpy(), golden[f"{prefix}/{theirs}"])
        for theirs, level in (("t", levels.video), ("t_actions", levels.action), ("t_proprios", levels.action)):
            golden_timesteps = golden[f"{prefix}/{theirs}"][:, -1]
            yield f"{prefix}/{theirs}", float(np.abs(1000 * level.cpu().numpy() - golden_timesteps).max())


def _denoise_config(numbers: Mapping[str, Any]) -> DenoiseConfig:
    """Their settings in our words: without decoupling, actions take the video's steps; cfg 0 means the plain pass."""
    return DenoiseConfig(
        num_video_steps=numbers["steps"],
        num_action_steps=numbers["action_steps"] if numbers["decoupled"] else numbers["steps"],
        shift=numbers["shift"],
        guidance=numbers["cfg"] or 1.0,
    )


def _accepts(numbers: Mapping[str, Any]) -> bool:
    try:
        _denoise_config(numbers)
    except ValueError:
        return False
    return True


def settings_of_model(folder: Path, name: str) -> dict[str, Any]:
    """Those of ``model_NAME``, or of the only model in the folder."""
    models = sorted(path.stem for path in folder.glob("model_*.json"))
    return read_json(folder, models[0] if len(models) == 1 else f"model_{name}")
