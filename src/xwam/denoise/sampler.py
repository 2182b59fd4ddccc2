"""Asynchronous denoising: the actions are ready early, the world follows (X-WAM, arXiv 2604.26694).

Video and actions (with their states) run down schedules of their own, side by side in one sequence. After
``num_action_steps`` calls of the network the actions are clean: they go to the robot, and stay in the sequence as
clean conditions while the video finishes. What was given (the observation) is put back after every step.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from xwam.config import DenoiseConfig
from xwam.denoise.guidance import Denoiser, guided
from xwam.denoise.noise import keep_given
from xwam.denoise.prefix import put_back, steer
from xwam.denoise.reuse import reusing
from xwam.denoise.solvers import Memory, Schedule, Solver, make_solver, schedule
from xwam.tensors import Given, NoiseLevels, Noisy, Prefix, Velocity


class StepDone(NamedTuple):
    """Between two calls of the network: no news, but a good moment to do something more urgent first."""

    index: int


class ActionsReady(NamedTuple):
    """The first event: final actions and states (normalised)."""

    state: Float[Tensor, "B Ts Ds"]
    action: Float[Tensor, "B Ta Da"]


class WorldReady(NamedTuple):
    """The second event: everything. ``depth`` holds clean depth latents, or None where the network gives none."""

    video: Float[Tensor, "B C F V h w"]
    depth: Float[Tensor, "B C F V h w"] | None
    state: Float[Tensor, "B Ts Ds"]
    action: Float[Tensor, "B Ta Da"]


class Memories(NamedTuple):
    """What the solver remembers, per modality."""

    video: Memory | None = None
    state: Memory | None = None
    action: Memory | None = None


def denoise(
    model: Denoiser,
    start: Noisy,
    *,
    config: DenoiseConfig,
    given: Given,
    actions_only: bool = False,
    solver: str = "unipc",
    unconditional: Denoiser | None = None,
    steered_by: Prefix | None = None,
) -> Iterator[ActionsReady | WorldReady]:
    """``denoise_stepwise`` without its pauses: ActionsReady, then (unless ``actions_only``) WorldReady."""
    events = denoise_stepwise(
        model, start, config=config, given=given, actions_only=actions_only, solver=solver,
        unconditional=unconditional, steered_by=steered_by,
    )  # fmt: skip
    return (event for event in events if not isinstance(event, StepDone))


def denoise_stepwise(
    model: Denoiser,
    start: Noisy,
    *,
    config: DenoiseConfig,
    given: Given,
    actions_only: bool = False,
    solver: str = "unipc",
    unconditional: Denoiser | None = None,
    steered_by: Prefix | None = None,
) -> Iterator[StepDone | ActionsReady | WorldReady]:
    """Yield ActionsReady, then (unless ``actions_only``) WorldReady; StepDone between all other calls of the network.

    Closing the iterator in between saves the rest. ``start`` is pure noise, but for the given part, which is clean.
    ``unconditional`` (the model with the empty prompt) is needed when ``config.guidance`` is not 1. Depth is asked for
    in the last call alone; that call still sees a little noise, so ``config.depth_at_zero`` pays one more call on the
    finished latents for it. ``steered_by``: a prefix for a network that does not know prefixes (prefix.py); one that
    does gets it in ``start`` and ``given``.
    """
    conditional, model = model, guided(model, unconditional, config.guidance)
    model = reusing(model, config.num_action_steps, config.reuse_every)
    video_plan = schedule(config.num_video_steps, config.shift)
    action_plan = schedule(config.num_action_steps, config.shift)
    video_solver, action_solver = (make_solver(solver, plan.sigmas) for plan in (video_plan, action_plan))
    levels = _levels_of_calls(video_plan, action_plan, start)
    num_calls = config.num_action_steps if actions_only else config.num_video_steps

    noisy, memories = start, Memories()
    for index in range(num_calls):
        is_last = index == num_calls - 1
        wants_video = not (actions_only and is_last)
        call = model
        if steered_by is not None and index < config.num_action_steps:
            call = steer(model, steered_by, action_plan.sigmas[index])
        # Not around the whole loop: between two events the caller's own setting must hold.
        with torch.no_grad():
            depth = is_last and not actions_only and not config.depth_at_zero
            velocity = call(noisy, levels[index], depth=depth, video=wants_video)
        if wants_video:
            noisy, memories = _step_video(video_solver, noisy, velocity, index, memories)
        if index < config.num_action_steps:
            noisy, memories = _step_action(action_solver, noisy, velocity, index, memories)
        noisy = keep_given(noisy, start, given)
        if index == config.num_action_steps - 1:
            noisy = noisy if steered_by is None else put_back(noisy, steered_by)
            yield ActionsReady(state=noisy.state, action=noisy.action)
        elif not is_last or config.depth_at_zero:
            yield StepDone(index)
    if not actions_only:
        if config.depth_at_zero:
            velocity = _look_again(conditional, noisy, levels[-1])
        yield WorldReady(video=noisy.video, depth=velocity.depth, state=noisy.state, action=noisy.action)


def _look_again(model: Denoiser, finished: Noisy, levels: NoiseLevels) -> Velocity:
    """One call that is told the truth: nothing is noisy any more."""
    clean = NoiseLevels(*(torch.zeros_like(level) for level in levels))
    with torch.no_grad():
        return model(finished, clean, depth=True, video=True)


def _levels_of_calls(video: Schedule, action: Schedule, start: Noisy) -> list[NoiseLevels]:
    """The levels of every call, on the device before the loop begins, so that no step waits for a copy.

    float64, so that 1000 times a level is the whole timestep again.
    """
    num_steps, batch_size = len(video.network_sigmas), len(start.video)
    actions_done = (0.0,) * (num_steps - len(action.network_sigmas))
    pairs = torch.tensor([video.network_sigmas, action.network_sigmas + actions_done], dtype=torch.float64)
    pairs = pairs.to(start.video.device)[:, :, None].expand(-1, -1, batch_size)
    return [NoiseLevels(video=pairs[0, index], action=pairs[1, index]) for index in range(num_steps)]


def _step_video(
    solver: Solver, noisy: Noisy, velocity: Velocity, index: int, memories: Memories
) -> tuple[Noisy, Memories]:
    assert velocity.video is not None, "a denoiser asked for video must answer it"
    video, memory = solver(noisy.video, velocity.video, index, memories.video)
    return noisy._replace(video=video), memories._replace(video=memory)


def _step_action(
    solver: Solver, noisy: Noisy, velocity: Velocity, index: int, memories: Memories
) -> tuple[Noisy, Memories]:
    """One step of the actions and of the states, which share a level."""
    state, state_memory = solver(noisy.state, velocity.state, index, memories.state)
    action, action_memory = solver(noisy.action, velocity.action, index, memories.action)
    noisy = noisy._replace(state=state, action=action)
    return noisy, memories._replace(state=state_memory, action=action_memory)
