"""Truth: a perfect imagination is called perfect, a deaf one is found out, and the whole runs on a small checkpoint."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import truth
from benchmarks.truth import Truth
from tests.sim.fake_env import FakeEnv
from xwam.evaluate.study import same_settings
from xwam.policy import load_policy
from xwam.presets import preset


class HandInSight(FakeEnv):
    """The static cameras see a red square where the hand is."""

    def observe(self):
        seen = super().observe()
        row, column = (int(np.clip(16 + 30 * value, 4, 27)) for value in self.position[:2])
        for name in ("left", "right"):
            seen.images[name][row - 3 : row + 4, column - 3 : column + 4] = (255, 0, 0)
        return seen


class SolvedAtTen(HandInSight):
    """Any ten actions solve its task."""

    def reset(self, seed):
        super().reset(seed)
        self.num_steps = 0

    def step(self, action):
        super().step(action)
        self.num_steps += 1
        self.success = self.num_steps >= 10
        return self.success


def settings_for(checkpoint, out) -> Truth:
    return Truth(
        checkpoint=checkpoint, tasks=("fake-reach", "fake-fragile"), out=out, episodes=2, chunks=1, swaps=1
    )  # fmt: skip


def test_the_whole_on_a_small_checkpoint(trained, tmp_path):
    _, last = trained
    settings = settings_for(last, tmp_path)
    result = truth.run(settings, make_env=HandInSight)
    assert result["path"]["episodes"] == 4
    assert result["path"]["imagined_m"] > 0
    assert result["actions"]["videos"] == 4, "two videos of each of the two swaps"
    assert result["actions"]["rms_by_action_real"] > truth.MOVING_LEVELS / 3**0.5, "only pixels that differ count"
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(times) == 6
    assert truth.run(settings, make_env=HandInSight) == result
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert "nearer to its own actions" in (tmp_path / "table.md").read_text()


def test_frames_after_success_are_solved_ones(trained):
    _, last = trained
    played = truth.play(SolvedAtTen("fake-reach", width_px=32, height_px=32), load_policy(last), seed=3, num_chunks=1)
    assert played["is_solved"].tolist() == [False, False, False, True, True], "after 0, 4, 8, 12 and 16 actions"


def test_who_imagines_what_will_come_is_nearer_to_its_own_actions(monkeypatch):
    config = preset("debug")
    env, other, twin = (
        HandInSight(task, width_px=32, height_px=32) for task in ("fake-reach", "fake-fragile", "fake-reach")
    )

    def foresee(policy, first, actions, through, *, seed):
        frames = truth.record(twin, 3, actions, config.clip)[3]
        return SimpleNamespace(video=truth._seen(frames, config.view_names, config.clip))

    monkeypatch.setattr(truth, "imagine_actions", foresee)
    found = truth.swap(env, other, SimpleNamespace(config=config), seed=3)
    assert found["pixels"][0] > 0
    assert found["own"].tolist() == [0, 0]
    assert (found["wrong"] == found["by_action_real"]).all()
    assert found["by_action"] == found["by_action_real"] > 0
    assert found["by_seed"] == 0


def write_episodes(settings: Truth, imagine) -> None:
    """Pictures in which one number says whether the task is solved, and the others say nothing."""
    generator = np.random.default_rng(0)
    for task in settings.tasks:
        for number in range(6):
            is_solved = np.array([False, False, number % 2 == 0])
            real = generator.normal(size=(3, 20)).astype(np.float32)
            real[:, 0] = np.where(is_solved, 4, -4)
            arrays = {"decision": np.zeros(3, int), "real": real, "imagined": imagine(real), "is_solved": is_solved}
            arrays |= {"path": np.array([0.01]), "still": np.array([0.1])}
            truth.save_whole(settings.out / "episodes" / f"{task}-{number:03d}.npz", arrays)


def test_the_probe_tells_true_from_false_imagination(tmp_path):
    honest, hopeful = (replace(settings_for("", tmp_path / name), episodes=6) for name in ("honest", "hopeful"))
    write_episodes(honest, lambda real: real)
    write_episodes(hopeful, lambda real: np.where(np.arange(20) == 0, 4, real).astype(np.float32))
    counts = truth.judge_success(honest)
    assert counts["imagined_solved"] == counts["last_solved"] == [6, 6]
    assert counts["imagined_open"] == counts["last_open"] == [0, 6]
    assert counts["first_solved"] == [0, 6], "nothing is solved before anything was done"
    assert truth.judge_success(hopeful)["imagined_open"] == [6, 6], "success is always imagined"


def test_the_probe_is_not_asked_without_both_classes():
    one_class = [{"real": np.zeros((2, 3)), "is_solved": np.array([True, True])}]
    assert truth.fit_probe(one_class) is None
    assert truth.fit_probe([]) is None


@pytest.mark.parametrize(("own", "nearer"), [(1.0, 2), (9.0, 0)])
def test_following_is_counted_video_by_video(tmp_path, own, nearer):
    settings = Truth(checkpoint=tmp_path, tasks=("fake-reach",), out=tmp_path, swaps=1)
    arrays = {"own": np.full(2, own), "wrong": np.full(2, 4.0), "pixels": np.array([7])}
    arrays |= {name: np.array([25.0]) for name in ("by_action", "by_seed", "by_action_real")}
    truth.save_whole(tmp_path / "swaps" / "fake-reach-fake-reach" / "fake-reach-000.npz", arrays)
    judged = truth.judge_swaps(settings)
    assert (judged["nearer"], judged["videos"], judged["rms_by_action"]) == (nearer, 2, 5.0)


def test_small_pictures_are_means():
    video = np.zeros((2, 3, 64, 64, 3), np.uint8)
    video[1, 2, :2, 0] = 255
    row = truth.small(video)
    assert row.shape == (3, 2 * 32 * 32 * 3)
    assert row[2, 32 * 32 * 3] == pytest.approx(0.5)
    assert row.sum() == pytest.approx(1.5)


def test_results_of_another_checkpoint_are_not_taken(tmp_path):
    same_settings(tmp_path / "settings.json", {"chunks": 1, "weights": "a"})
    same_settings(tmp_path / "settings.json", {"chunks": 1, "weights": "a"})
    with pytest.raises(ValueError, match="choose another folder"):
        same_settings(tmp_path / "settings.json", {"chunks": 1, "weights": "b"})
