"""Episodes are handed out so that simulators stay open: opening one takes half a second, as long as a chunk or two."""

import multiprocessing
import threading
from multiprocessing import Pipe
from types import SimpleNamespace

import numpy as np
import pytest

from tests.sim.fake_env import FakeEnv
from xwam.evaluate import closed_loop
from xwam.policy import Policy
from xwam.sim import worker

TASKS = ("fake-reach", "fake-fragile", "fake-far")


@pytest.fixture
def events(monkeypatch):
    """What is opened and closed, by whichever worker."""
    happened = []

    class Watched(FakeEnv):
        def __init__(self, task, **sizes) -> None:
            super().__init__(task, **sizes)
            happened.append(f"open {task}")

        def close(self) -> None:
            happened.append(f"close {self.task}")

    monkeypatch.setattr(worker, "simulator_named", lambda simulator: SimpleNamespace(make_env=Watched))
    return happened


def start(max_steps=16):
    """A worker in a thread: our end of the pipe, and the thread."""
    here, there = Pipe()
    thread = threading.Thread(target=worker.simulate, args=(there, "metaworld", 8, 8, max_steps), daemon=True)
    thread.start()
    return here, thread


def play(monkeypatch, waiting, num_workers=1):
    """All episodes that are waiting, with actions drawn from the seed of each decision."""

    def predict_batch(observations, *, seeds, actions_only):
        assert actions_only
        width = FakeEnv.layout.action_width
        chunks = [np.random.default_rng(seed).uniform(-0.1, 0.1, (8, width)).astype(np.float32) for seed in seeds]
        yield [SimpleNamespace(action=chunk, seconds={"actions": 0.0}) for chunk in chunks]

    workers = [start() for _ in range(num_workers)]
    config = closed_loop.ClosedLoopConfig(
        tasks=TASKS, num_episodes=6, seed=0, replan_every=4, max_steps=16, num_envs=num_workers
    )
    policy = Policy.__new__(Policy)
    monkeypatch.setattr(policy, "predict_batch", predict_batch, raising=False)
    unused = multiprocessing.get_context("spawn").Process()  # threads play
    simulations = [closed_loop.Simulation(connection, unused) for connection, _ in workers]
    results = list(closed_loop._play(policy, config, simulations, waiting))
    for connection, thread in workers:
        connection.close()
        thread.join(timeout=10)
        assert not thread.is_alive()
    return {(result.task, result.seed): result for result in results}


def test_placements_of_two_evaluations_do_not_meet():
    assert closed_loop.placements(7, 2) == [1_070_000, 1_070_001]


def test_every_decision_has_a_seed_of_its_own():
    here, there = Pipe()
    simulation = closed_loop.Simulation(here, multiprocessing.get_context("spawn").Process())
    seeds = []
    for episode in (5, 6):
        simulation.begin("fake-reach", episode)
        for _ in range(2):
            seeds.append(simulation.decision_seed())
            simulation.play(np.zeros((1, FakeEnv.layout.action_width), np.float32), 0.1)
    there.close()
    assert seeds == [5000, 5001, 6000, 6001]


def test_every_task_counts_alike_in_the_mean_and_every_episode_in_the_overall_rate():
    plays = [("push", True), ("reach", True), ("reach", False), ("reach", False), ("reach", False)]
    rows = [
        closed_loop.EpisodeResult(task=task, seed=seed, success=success, num_steps=9, action_seconds=0.1)
        for seed, (task, success) in enumerate(plays)
    ]
    found = closed_loop.summarize(rows)
    assert {task: row["success"] for task, row in found["tasks"].items()} == {"push": 1.0, "reach": 0.25}
    assert (found["mean_success"], found["overall"]["success"]) == (0.625, 0.4)


def test_a_worker_closes_what_it_replaces(events):
    here, thread = start()
    for task, seed in (("fake-reach", 1), ("fake-reach", 2), ("fake-fragile", 1), ("fake-reach", 3)):
        here.send(("reset", (task, seed)))
        assert here.recv()[0].state is not None
    here.close()
    thread.join(timeout=10)
    assert events[:5] == ["open fake-reach", "close fake-reach", "open fake-fragile", "close fake-fragile", events[0]]


@pytest.mark.parametrize(("num_workers", "most"), [(1, 3), (2, 4), (3, 6)])
def test_simulators_stay_open_and_results_do_not_depend_on_the_order(events, monkeypatch, num_workers, most):
    rounds = [(task, seed) for seed in range(6) for task in TASKS]
    expected = play(monkeypatch, rounds)
    events.clear()
    found = play(monkeypatch, sorted(rounds, key=lambda episode: -episode[1]), num_workers)
    assert found == expected
    assert len(found) == len(rounds)
    assert sum(event.startswith("open") for event in events) <= most
