"""Closed loop: does the robot do it? Success over many unseen placements, with honest intervals.

Several simulators run in their own processes and share one batched policy. Every finished episode is written at
once, so an interrupted evaluation continues where it stopped.
"""

import json
import multiprocessing
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from xwam.config import Simulator
from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.results_file import OtherSettingsError, are_same, check_file, identity
from xwam.files import as_json, write_text
from xwam.policy import Policy
from xwam.records import Observation
from xwam.sim.rollout import DECISIONS_PER_EPISODE
from xwam.sim.simulators import check_robot
from xwam.sim.worker import simulate

MAY_DIFFER = ("num_envs", "num_episodes", "tasks")  # between two parts of one evaluation
UNSEEN = 1_000_000  # evaluation seeds start here; collection stays below


def placements(seed: int, count: int) -> list[int]:
    """Seeds of the simulator for an evaluation: the same for the same ``seed``, and never those of collected data."""
    return [UNSEEN + seed * 10_000 + number for number in range(count)]


@dataclass(frozen=True, kw_only=True)
class ClosedLoopConfig:
    """What is evaluated, and how the chunks are played."""

    simulator: Simulator = "metaworld"
    tasks: tuple[str, ...]
    num_episodes: int
    seed: int
    replan_every: int  # actions played of each chunk
    max_steps: int  # actions per episode
    num_envs: int
    is_blind: bool = False  # baseline: the policy sees grey images
    is_random: bool = False  # baseline: uniform actions within the statistics' bounds

    def __post_init__(self) -> None:
        for name in ("num_episodes", "replan_every", "max_steps", "num_envs"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name}={vars(self)[name]}: must be 1 or more.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be 0 or more; below are the placements of training data.")


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One episode, played once."""

    task: str
    seed: int
    success: bool
    num_steps: int
    action_seconds: float  # median compute time of its answers; each was computed for up to ``num_envs`` robots at once
    waits: Sequence[float] = ()  # that time for every decision


@dataclass(eq=False)
class Simulation:
    """A simulator's process, our end of its pipe, and the episode that is played there."""

    connection: Connection
    process: SpawnProcess
    task: str | None = None  # whose simulator is open; None: no episode has begun
    seed: int = 0
    seconds: list[float] = field(default_factory=list)  # that each answer of this episode took

    def begin(self, task: str, seed: int) -> None:
        """Start an episode."""
        self.task, self.seed, self.seconds = task, seed, []
        self.connection.send(("reset", (task, seed)))

    def receive(self) -> tuple[Observation | None, bool, int]:
        """What is seen (None: the episode is over), whether it is a success, and how many steps were taken."""
        try:
            observation, success, num_steps, _ = self.connection.recv()
        except EOFError as error:
            raise RuntimeError("a simulator's process ended; what it said last stands above.") from error
        return observation, success, num_steps

    def decision_seed(self) -> int:
        """The seed of the next answer."""
        return self.seed * DECISIONS_PER_EPISODE + len(self.seconds)

    def play(self, chunk: Float[np.ndarray, "Ta Da"], seconds: float) -> None:
        """Send actions; their batch took so long to compute."""
        self.seconds.append(seconds)
        self.connection.send(("play", chunk))

    def result(self, success: bool, num_steps: int) -> EpisodeResult:
        """The episode, which is over."""
        assert self.task is not None
        return EpisodeResult(
            task=self.task,
            seed=self.seed,
            success=success,
            num_steps=num_steps,
            action_seconds=float(np.median(self.seconds)) if self.seconds else 0.0,
            waits=tuple(self.seconds),
        )

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(timeout=5)
        self.process.terminate()


def evaluate_closed_loop(policy: Policy, config: ClosedLoopConfig, out: Path) -> dict[str, Any]:
    """Play every (task, seed) once and write ``out`` (JSON). Returns what was written: success per task and overall.

    Raises ValueError for an ``out`` that is no .json, unknown tasks, another robot than the policy's, more actions per
    decision than an answer has, and OtherSettingsError where ``out`` holds other results.
    """
    check_file(out)
    hz = policy.config.clip.action_hz
    check_robot(config.simulator, config.tasks, policy.layout, action_hz=hz, views=policy.needed_views)
    horizon = policy.config.clip.action_horizon
    if config.replan_every > horizon:
        raise ValueError(f"replan_every={config.replan_every}: must be in 1..{horizon}, the actions of one answer.")
    settings = as_json(asdict(config) | identity(policy))
    done = _load_finished(out, settings)
    seeds = placements(config.seed, config.num_episodes)
    asked = {(task, seed) for task in config.tasks for seed in seeds}
    waiting = [(task, seed) for seed in seeds for task in config.tasks if (task, seed) not in done]
    bar = tqdm(total=len(asked), initial=len(asked & done.keys()), desc="evaluate", unit="episode")
    simulations = _start(min(config.num_envs, len(waiting)), config, policy)
    try:
        for result in _play(policy, config, simulations, waiting):
            done[result.task, result.seed] = result
            bar.update()
            rates = _write(out, settings, done, asked)
            bar.set_postfix_str(f"success {rates['overall']['success']:.0%}")
    finally:
        bar.close()
        for simulation in simulations:
            simulation.close()
    return _write(out, settings, done, asked)


def _play(
    policy: Policy, config: ClosedLoopConfig, simulations: Sequence[Simulation], waiting: Sequence[tuple[str, int]]
) -> Iterator[EpisodeResult]:
    """Hand out episodes, batch the observations that are ready, send the actions back; yields finished episodes."""
    left, playing = list(waiting), list[Simulation]()

    def begin_next(simulation: Simulation) -> None:
        if left:
            left.remove(episode := _best_for(simulation, simulations, left))
            simulation.begin(*episode)
            playing.append(simulation)

    for simulation in simulations:
        begin_next(simulation)
    while playing:
        ready = wait([simulation.connection for simulation in playing])
        asking: list[tuple[Simulation, Observation]] = []
        for simulation in [simulation for simulation in playing if simulation.connection in ready]:
            observation, success, num_steps = simulation.receive()
            if observation is None:
                playing.remove(simulation)
                yield simulation.result(success, num_steps)
                begin_next(simulation)
            else:
                asking.append((simulation, observation))
        if asking:
            _answer(policy, config, asking)


def _best_for(
    simulation: Simulation, simulations: Sequence[Simulation], left: Sequence[tuple[str, int]]
) -> tuple[str, int]:
    """Opening a simulator takes half a second: first the task that is open here, next one that no other has."""
    opened = {other.task for other in simulations}
    return min(left, key=lambda episode: (episode[0] != simulation.task, episode[0] in opened))


def _answer(policy: Policy, config: ClosedLoopConfig, asking: Sequence[tuple[Simulation, Observation]]) -> None:
    """One batched policy call for all robots that wait for actions."""
    observations = [observation for _, observation in asking]
    seeds = [simulation.decision_seed() for simulation, _ in asking]
    if config.is_random:
        actions = [_random_chunk(policy, seed) for seed in seeds]
        seconds = 0.0
    else:
        if config.is_blind:
            observations = [blinded(observation) for observation in observations]
        answers = next(policy.predict_batch(observations, seeds=seeds, actions_only=True))
        actions = [answer.action for answer in answers]
        seconds = sum(answers[0].seconds.values())
    for (simulation, _), chunk in zip(asking, actions, strict=True):
        simulation.play(chunk[: config.replan_every], seconds)


BLIND_GREY = 127  # as docs/results.md was measured; a camera that is not there shows images.GREY


def blinded(observation: Observation) -> Observation:
    """The same observation with grey images: what a policy without eyes gets."""
    return replace(observation, images={k: np.full_like(v, BLIND_GREY) for k, v in observation.images.items()})


def _random_chunk(policy: Policy, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    clip, width = policy.config.clip, policy.layout.action_width
    noise = generator.uniform(-1, 1, (clip.action_horizon, width)).astype(np.float32)
    return policy.normalizer.denormalize_action(noise)


def _start(count: int, config: ClosedLoopConfig, policy: Policy) -> list[Simulation]:
    context = multiprocessing.get_context("spawn")
    clip = policy.config.clip
    simulations = []
    for _ in range(count):
        here, there = context.Pipe()
        arguments = (there, config.simulator, clip.width_px, clip.height_px, config.max_steps)
        process = context.Process(target=simulate, args=arguments, daemon=True)
        process.start()
        there.close()
        simulations.append(Simulation(here, process))
    return simulations


def summarize(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success rates with 95 % Wilson intervals, per task and over all episodes, and the compute time of a batch."""

    def rate(rows: Sequence[EpisodeResult]) -> dict[str, Any]:
        wins = sum(r.success for r in rows)
        low, high = wilson_interval(wins, len(rows))
        return {"success": wins / len(rows), "low": low, "high": high, "episodes": len(rows)}

    tasks = sorted({r.task for r in results})
    per_task = {task: rate([r for r in results if r.task == task]) for task in tasks}
    return {
        "mean_success": float(np.mean([row["success"] for row in per_task.values()])),
        "overall": rate(results),
        "tasks": per_task,
        "action_seconds_median": float(np.median([r.action_seconds for r in results])),
    }


def _load_finished(out: Path, settings: dict[str, Any]) -> dict[tuple[str, int], EpisodeResult]:
    if not out.is_file():
        return {}
    stored = json.loads(out.read_text())
    if not are_same(stored["settings"], settings, but=MAY_DIFFER):
        raise OtherSettingsError(
            f"out={out} holds results of other settings {stored['settings']}: choose another file."
        )
    results = [EpisodeResult(**row) for row in (*stored["episodes"], *stored.get("others", ()))]
    return {(r.task, r.seed): r for r in results}


def _write(
    out: Path, settings: dict[str, Any], done: dict[tuple[str, int], EpisodeResult], asked: Set[tuple[str, int]]
) -> dict[str, Any]:
    """Only episodes that were asked for count; ``others`` that the file held stay in it."""
    results = [result for key, result in done.items() if key in asked]
    others = [asdict(result) for key, result in done.items() if key not in asked]
    report = {"settings": settings, **summarize(results), "episodes": [asdict(r) for r in results], "others": others}
    write_text(out, json.dumps(report, indent=1) + "\n")
    return report
