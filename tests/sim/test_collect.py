import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.sim.fake_env import LAYOUT, MOVE, FakeEnv, make_fake
from xwam.data.lerobot import DatasetWriter, open_lerobot
from xwam.sim import collect as room
from xwam.sim.collect import FIRST_WANDERED, RETRY_STRIDE, Recording
from xwam.sim.record import (
    DEMONSTRATED_AFTER_SUCCESS,
    MIN_STEPS,
    STEPS_AFTER_SUCCESS,
    WANDER_STEPS,
    record_episode,
    record_wandering,
    smooth_noise,
)

ARGUMENTS = {"tasks": ("fake-reach", "fake-fragile"), "num_episodes": 2, "width_px": 24, "height_px": 24}


def collect(out, tasks, num_episodes, *, seed=None, num_workers=1, **how):
    """What is asked for and how it is recorded, in one go."""
    return room.collect(out, tasks, num_episodes, Recording(**how), seed=seed, num_workers=num_workers)


class Slow(FakeEnv):
    """An episode takes minutes."""

    def reset(self, seed: int) -> None:
        super().reset(seed)
        time.sleep(300)


def make_slow(task: str, *, width_px: int, height_px: int) -> Slow:
    return Slow(task, width_px=width_px, height_px=height_px)


class Interrupted(FakeEnv):
    """Someone presses Ctrl-C, once or more, in the middle of the episode of seed 1."""

    def __init__(self, task, *, presses, **sizes):
        super().__init__(task, **sizes)
        self.presses = presses

    def step(self, action):
        while self.presses and self.seed == 1 and self.position[2] < 0.2:
            self.presses -= 1
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


def make_pressed_once(task, *, width_px, height_px):
    return Interrupted(task, presses=1, width_px=width_px, height_px=height_px)


def make_pressed_twice(task, *, width_px, height_px):
    return Interrupted(task, presses=2, width_px=width_px, height_px=height_px)


class Jointed(FakeEnv):
    """Its expert sets joints (as the simulator moves the hand, nobody asks how)."""

    layout = replace(
        LAYOUT,
        action=tuple(
            replace(part, kind="joint_command", unit="rad") if part.name == "left_position" else part
            for part in LAYOUT.action
        ),
    )


class Bare(FakeEnv):
    """A hand without a gripper."""

    layout = replace(LAYOUT, action=tuple(replace(p, is_used=p.name == "left_position") for p in LAYOUT.action))


def make_jointed(task, *, width_px, height_px):
    return Jointed(task, width_px=width_px, height_px=height_px)


def make_bare(task, *, width_px, height_px):
    return Bare(task, width_px=width_px, height_px=height_px)


def contents(folder):
    episodes = open_lerobot(folder)
    rows = []
    for i in range(episodes.num_episodes):
        info = episodes.info(i)
        depth = episodes.depth(i, "wrist", np.arange(info.length))  # without loss; the RGB encoder may vary a little
        rows.append((info.task, info.instruction, info.state.tobytes(), info.action.tobytes(), depth.tobytes()))
    return rows


def test_an_episode_has_a_beginning_and_a_future():
    env = make_fake()
    episode = record_episode(env, 0)
    assert len(episode.state) >= MIN_STEPS
    env.reset(0)
    reached = [env.step(action) for action in episode.action].index(True) + 1
    assert len(episode.state) >= reached + STEPS_AFTER_SUCCESS
    assert episode.demonstrated is not None
    assert np.flatnonzero(~episode.demonstrated)[0] == reached + DEMONSTRATED_AFTER_SUCCESS
    assert not episode.demonstrated[reached + DEMONSTRATED_AFTER_SUCCESS :].any()
    np.testing.assert_array_equal(episode.state[0, :3], np.float32([0, 0, 0.3]))
    np.testing.assert_array_equal(episode.executed_action, episode.action)
    assert set(episode.video) == set(episode.depth) == {"left", "right", "wrist"}
    assert episode.success


def test_noise_is_executed_but_the_expert_is_stored():
    env = make_fake()
    noisy = [record_episode(env, seed, noise=0.5) for seed in range(8)]
    disturbed = [e for e in noisy if not np.array_equal(e.action, e.executed_action)]
    assert 3 <= len(disturbed) < 8, "most episodes are disturbed, some are clean"
    for episode in disturbed:
        moved = np.diff(episode.state[:, :3], axis=0)
        np.testing.assert_allclose(moved, episode.executed_action[:-1, MOVE], atol=1e-6)
        assert np.abs(episode.executed_action[:, MOVE]).max() <= env.max_delta_m + 1e-7
        env.reset(episode.seed)
        for i, state in enumerate(episode.state):  # the stored action is the expert's own, at the disturbed state
            env.position = state[:3].astype(np.float64)
            np.testing.assert_allclose(episode.action[i], env.expert_action(), atol=1e-6)


def test_noise_is_smooth_and_of_the_asked_strength():
    runs = []
    for seed in range(200):
        noise = smooth_noise(np.random.default_rng(seed), 0.01)
        runs.append(np.stack([next(noise) for _ in range(200)]))
    runs = np.array(runs)
    is_on = (runs != 0).any(axis=-1)
    assert 0.15 < (~is_on.any(axis=1)).mean() < 0.35, "a quarter of the episodes stays clean"
    assert 0.3 < is_on[is_on.any(axis=1)].mean() < 0.5
    assert 0.004 < runs[is_on].std() < 0.008, "strengths are uniform in 0..scale: their root mean square is 0.58"
    both = is_on[:, 1:] & is_on[:, :-1]
    correlation = (runs[:, 1:][both] * runs[:, :-1][both]).mean() / runs[is_on].var()
    assert correlation == pytest.approx(0.8, abs=0.08)


def test_failed_placements_are_replaced(tmp_path):
    assert collect(tmp_path, make_env=make_fake, seed=0, noise=0.0, **ARGUMENTS) == 4
    env = make_fake("fake-reach", width_px=24, height_px=24)
    writer = DatasetWriter(
        tmp_path, layout=env.layout, cameras=list(env.cameras.values()), action_hz=20.0, robot_type="fake"
    )
    keys = writer.episode_keys()
    writer.finish()
    assert keys == {("fake-reach", 0), ("fake-reach", 1), ("fake-fragile", 0), ("fake-fragile", 1 + RETRY_STRIDE)}


def test_a_placement_nobody_can_do_is_left_out(tmp_path):
    with pytest.warns(UserWarning, match="task='fake-impossible' seed=0: the expert failed 10 placements"):
        assert collect(tmp_path, ("fake-impossible",), 1, make_env=make_fake, width_px=24, height_px=24) == 0


def test_interrupted_and_continued_equals_uninterrupted(tmp_path):
    arguments = ARGUMENTS | {"seed": 0, "noise": 0.4}
    before = signal.getsignal(signal.SIGINT)
    collect(tmp_path / "whole", make_env=make_fake, **arguments)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "parts", make_env=make_pressed_twice, **arguments)
    assert open_lerobot(tmp_path / "parts").num_episodes == 1, "what was finished is there and readable"
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "parts", make_env=make_pressed_once, **arguments)
    assert open_lerobot(tmp_path / "parts").num_episodes == 2, "what had begun was finished and kept"
    assert signal.getsignal(signal.SIGINT) is before, "the handler is put back"
    assert collect(tmp_path / "parts", make_env=make_fake, **arguments) == 4
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert collect(tmp_path / "parts", make_env=make_pressed_twice, **arguments) == 4, "nothing is left to do"


def test_several_processes_write_the_same(tmp_path):
    arguments = ARGUMENTS | {"seed": 4, "noise": 0.4, "make_env": make_fake}
    collect(tmp_path / "one", **arguments)
    collect(tmp_path / "two", num_workers=2, **arguments)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def collecting(out: Path, make_env: str, num_started: int) -> subprocess.Popen:
    """A terminal's collect with two workers, once it has started so many processes; one keeps track of semaphores."""
    script = f"""
from pathlib import Path
from {make_env.rpartition(".")[0]} import {make_env.rpartition(".")[2]} as make_env
from xwam.sim.collect import Recording, collect
try:
    recording = Recording(make_env=make_env, width_px=24, height_px=24)
    collect(Path({str(out)!r}), ("fake-reach",), 9, recording, num_workers=2)
except KeyboardInterrupt:
    print("stopped")
"""
    root = Path(__file__).parents[2]
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=-1, stderr=-1, text=True, start_new_session=True, cwd=root
    )
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.is_file():
        run.kill()
        pytest.skip("this system does not say which processes a process has started")
    while len(children.read_text().split()) < num_started and run.poll() is None:
        time.sleep(0.001)
    return run


def test_ctrl_c_while_processes_start(tmp_path):
    """A terminal sends it to all of them; those that still import what they need must not die of it."""
    run = collecting(tmp_path, "tests.sim.fake_env.make_fake", num_started=2)
    os.killpg(run.pid, signal.SIGINT)
    said, complaints = run.communicate(timeout=60)
    assert said.endswith("stopped\n"), complaints
    assert "BrokenProcessPool" not in complaints
    assert 1 <= open_lerobot(tmp_path).num_episodes < 9, "what had begun was finished and kept"


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    run = collecting(tmp_path, "tests.sim.test_collect.make_slow", num_started=3)
    time.sleep(1)
    os.kill(run.pid, signal.SIGINT)
    time.sleep(1)
    assert run.poll() is None, "what has begun is finished"
    os.kill(run.pid, signal.SIGINT)
    said, complaints = run.communicate(timeout=30)
    assert said.endswith("stopped\n"), complaints


def test_sizes_that_no_video_holds_are_refused_before_anything_is_simulated(tmp_path):
    for size in (63, 8):
        with pytest.raises(ValueError, match=f"width_px={size}, .*: videos need even sizes, at least 16"):
            collect(tmp_path / "set", ("fake-reach",), 1, make_env=make_fake, width_px=size, height_px=64)
    assert not (tmp_path / "set").exists()


def test_a_task_that_is_named_twice_is_recorded_once(tmp_path):
    assert collect(tmp_path, ("fake-reach", "fake-reach"), 2, make_env=make_fake, width_px=24, height_px=24) == 2


def test_joints_are_recorded_without_noise_and_do_not_wander(tmp_path):
    sizes = {"num_episodes": 1, "width_px": 24, "height_px": 24}
    assert collect(tmp_path / "set", ("fake-reach",), make_env=make_jointed, noise=0.9, **sizes) == 1
    episode = record_episode(Jointed("fake-reach", width_px=24, height_px=24), 0, noise=0.9)
    np.testing.assert_array_equal(episode.action, episode.executed_action)
    with pytest.raises(ValueError, match=r"wander=True: 'fake' moves 0 hands by displacements, its state has 1"):
        collect(tmp_path / "wander", ("fake-reach",), make_env=make_jointed, wander=True, **sizes)
    assert not (tmp_path / "wander").exists()


def test_a_hand_without_a_gripper_wanders(tmp_path):
    bare = {"num_episodes": 1, "wander": True, "make_env": make_bare, "width_px": 24, "height_px": 24}
    assert collect(tmp_path, ("fake-impossible",), **bare) == 1
    action = open_lerobot(tmp_path).info(0).action
    assert np.ptp(action[:, MOVE], axis=0).min() > 0
    assert (np.delete(action, np.r_[MOVE], axis=1) == 0).all()


def test_more_episodes_can_be_asked_for_later(tmp_path):
    assert collect(tmp_path, make_env=make_fake, **ARGUMENTS | {"tasks": ("fake-reach",)}) == 2
    assert collect(tmp_path, make_env=make_fake, **ARGUMENTS | {"num_episodes": 1, "seed": 2}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_episodes": 0}, "num_episodes=0"),
        ({"num_workers": 0}, "num_workers=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": RETRY_STRIDE}, "seed=100000"),
        ({"noise": 2.0}, "noise=2.0"),
        ({"tasks": ()}, "tasks"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        collect(tmp_path / "out", make_env=make_fake, **ARGUMENTS | change)
    assert not (tmp_path / "out").exists()


def test_unknown_task_is_refused_before_anything_is_written(tmp_path):
    pytest.importorskip("metaworld")
    with pytest.raises(ValueError, match="did you mean 'reach-v3'"):
        collect(tmp_path / "out", ("window-open-v3", "reech-v3"), 1)
    assert not (tmp_path / "out").exists()


def test_meta_world_end_to_end(tmp_path):
    pytest.importorskip("metaworld")
    assert collect(tmp_path, ("reach-v3",), 1, noise=0.3, width_px=24, height_px=24) == 1
    episodes = open_lerobot(tmp_path)
    assert {c.name for c in episodes.cameras} == {"left", "right", "wrist"}
    assert episodes.info(0).length >= MIN_STEPS


def test_wandering_goes_through_the_workspace_and_is_no_demonstration(tmp_path):
    arguments = {"num_episodes": 3, "wander": True, "make_env": make_fake, "width_px": 24, "height_px": 24}
    assert collect(tmp_path / "wander", ("fake-reach", "fake-impossible"), **arguments) == 6
    episodes = open_lerobot(tmp_path / "wander")
    infos = [episodes.info(number) for number in range(6)]
    assert not any(episodes.demonstrated(number).any() for number in range(6))
    assert all(info.length == WANDER_STEPS for info in infos)
    env = make_fake()
    for info in infos:
        moved = np.diff(info.state[:, :3], axis=0)
        np.testing.assert_allclose(moved, info.action[:-1, MOVE], atol=1e-6)  # what is stored is what was played
        assert np.abs(info.action[:, MOVE]).max() <= env.max_delta_m + 1e-6
    places = np.concatenate([info.state[:, :3] for info in infos])
    low, high = env.workspaces[0]
    assert (places >= low - 1e-6).all()
    assert (places <= high + 1e-6).all()
    assert (np.ptp(places, axis=0) > 0.5 * (high - low)).all()
    assert len({info.action.tobytes() for info in infos}) == 6
    assert collect(tmp_path / "wander", ("fake-reach", "fake-impossible"), **arguments) == 6, "nothing is left to do"
    with pytest.raises(ValueError, match=r"wander=False: out=.* holds wandering"):
        collect(tmp_path / "wander", ("fake-reach",), **arguments | {"wander": False})
    again = record_wandering(env, FIRST_WANDERED + 1)
    np.testing.assert_allclose(again.action, infos[1].action, atol=1e-6)  # scenes of its own; the seed decides


def test_wandering_follows_the_expert_now_and_then():
    env, share = make_fake(), []
    for seed in range(30):
        episode = record_wandering(env, seed)
        env.reset(seed)
        for state, action in zip(episode.state, episode.action, strict=True):
            env.position = state[:3].astype(np.float64)
            share.append(np.allclose(action, env.expert_action(), atol=1e-6))
    assert 0.1 < np.mean(share) < 0.45
