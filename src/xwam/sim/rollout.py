"""Close the loop: observe, predict, play a part of the answer, again; and keep what was imagined beside what happened.

The robot acts on the first answer (actions). The world is completed after the actions were played, so imagining
never delays the robot. ``play_chunks`` yields after each decision; ``rollout`` is the whole episode in one call.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from xwam.records import Observation, Prediction
from xwam.sim.env import Env

Predict = Callable[[Observation, int], Iterator[Prediction]]
"""Maps an observation and a seed to predictions: the actions first, then (if asked for more) the whole world."""

DECISIONS_PER_EPISODE = 1000  # seeds of one episode's decisions do not meet those of the next


class Chunk(NamedTuple):
    """One decision and what came of it."""

    step: int  # index of its first action in the episode
    prediction: Prediction  # with video and depth when the world was imagined
    action: Float[np.ndarray, "N Da"]  # what was played of it
    state: Float[np.ndarray, "N Ds"]  # before each of these actions
    frames: Mapping[int, Observation]  # what was seen, by action step: where this or an earlier decision has a frame
    success_step: int | None  # actions of the episode until success
    action_seconds: float  # from the observation to the actions
    world_seconds: float | None  # from the observation to the world, the time of playing left out


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One episode, real and imagined. It ends with the chunk in which the task was solved."""

    task: str
    instruction: str
    seed: int
    success: bool
    num_steps: int  # actions until success, or all that were played
    predictions: tuple[Prediction, ...]  # one per decision
    decision_steps: Int[np.ndarray, " decisions"]  # the action step of each decision
    action_seconds: Float[np.ndarray, " decisions"]
    world_seconds: Float[np.ndarray, " decisions"]  # NaN where the world was not imagined
    action: Float[np.ndarray, "N Da"]  # what was played
    state: Float[np.ndarray, "N+1 Ds"]  # before each action, and after the last
    frame_steps: Int[np.ndarray, " K"]  # the action steps at which real frames were kept
    video: Mapping[str, UInt8[np.ndarray, "K H W 3"]]  # real, per camera
    depth: Mapping[str, Float[np.ndarray, "K H W"]]  # real, metres, 0 where unknown

    def matching_frames(self, decision: int) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
        """Which frames of a prediction really came: their indices in the prediction, and in ``video``.

        Frames later than the next decision show what came of that one as well.
        """
        prediction = self.predictions[decision]
        steps = self.decision_steps[decision] + np.arange(len(prediction.state)) * _actions_per_frame(prediction)
        imagined = np.flatnonzero(np.isin(steps, self.frame_steps))
        return imagined, np.searchsorted(self.frame_steps, steps[imagined])


def rollout(
    env: Env,
    predict: Predict,
    *,
    seed: int,
    replan_every: int,
    max_steps: int | None = None,
    imagine: bool = False,
) -> Rollout:
    """Play one episode from ``env.reset(seed)``; see play_chunks for the arguments."""
    chunks = play_chunks(env, predict, seed=seed, replan_every=replan_every, max_steps=max_steps, imagine=imagine)
    return gather(env, seed, chunks)


def play_chunks(
    env: Env,
    predict: Predict,
    *,
    seed: int,
    replan_every: int,
    max_steps: int | None = None,
    imagine: bool = False,
) -> Iterator[Chunk]:
    """Yield after each decision. ``replan_every`` actions are played of every answer, ``max_steps`` in all.

    ``max_steps`` None: the env's. ``imagine`` also asks for the world. Raises ValueError when an answer has too few
    actions.
    """
    limit = env.max_steps if max_steps is None else max_steps
    if replan_every < 1 or limit < 1:
        raise ValueError(f"replan_every={replan_every}, max_steps={limit}: must be 1 or more.")
    env.reset(seed)
    wanted: set[int] = set()
    step, decision, success_step = 0, 0, None
    while step < limit and success_step is None:
        observation, start = env.observe(), time.perf_counter()
        answers = predict(observation, seed * DECISIONS_PER_EPISODE + decision)
        first = next(answers)
        action_seconds = time.perf_counter() - start
        if len(first.action) < replan_every:
            raise ValueError(f"replan_every={replan_every}: must be in 1..{len(first.action)}, the actions predicted.")
        wanted |= {step + k * _actions_per_frame(first) for k in range(len(first.state))}
        played = first.action[: min(replan_every, limit - step)]
        frames, states = {step: observation}, []
        for action in played:
            states.append(env.state())
            solved = env.step(action)
            step += 1
            if solved and success_step is None:
                success_step = step
            if step in wanted:
                frames[step] = env.observe()
        start = time.perf_counter()
        last = next(answers) if imagine else first
        yield Chunk(
            step=step - len(played),
            prediction=last,
            action=played,
            state=np.stack(states),
            frames=frames,
            success_step=success_step,
            action_seconds=action_seconds,
            world_seconds=action_seconds + time.perf_counter() - start if imagine else None,
        )
        decision += 1


def gather(env: Env, seed: int, chunks: Iterable[Chunk]) -> Rollout:
    """The episode that these chunks make; ``env`` must still stand where the last one ended."""
    chunks = list(chunks)
    frames = {step: frame for chunk in chunks for step, frame in chunk.frames.items()}
    steps = sorted(frames)
    seen = [frames[step] for step in steps]
    success_step = chunks[-1].success_step
    return Rollout(
        task=env.task,
        instruction=env.instruction,
        seed=seed,
        success=success_step is not None,
        num_steps=sum(len(c.action) for c in chunks) if success_step is None else success_step,
        predictions=tuple(c.prediction for c in chunks),
        decision_steps=np.array([c.step for c in chunks]),
        action_seconds=np.array([c.action_seconds for c in chunks]),
        world_seconds=np.array([np.nan if c.world_seconds is None else c.world_seconds for c in chunks]),
        action=np.concatenate([c.action for c in chunks]),
        state=np.concatenate([*(c.state for c in chunks), env.state()[None]]),
        frame_steps=np.array(steps),
        video={name: np.stack([s.images[name] for s in seen]) for name in seen[0].images},
        depth={name: np.stack([s.depth[name] for s in seen]) for name in seen[0].depth},
    )


def _actions_per_frame(prediction: Prediction) -> int:
    return round(prediction.action_hz / prediction.frame_hz)
