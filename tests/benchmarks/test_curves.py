"""Curves: every point is asked as its name says, finished ones are kept."""

import json
import math
from dataclasses import asdict, replace
from xml.etree import ElementTree

import pytest

from benchmarks import curves
from benchmarks.curves import Curves
from xwam.evaluate.closed_loop import UNSEEN, ClosedLoopConfig, EpisodeResult
from xwam.evaluate.results_file import identity
from xwam.evaluate.study import Trial, measure, t_interval
from xwam.files import write_json
from xwam.policy import load_policy


def test_points_and_plots(trained, tmp_path):
    root, last = trained
    settings = Curves(
        checkpoint=last, data=root / "data", tasks=(), out=tmp_path, action_steps=(1, 2), video_steps=(2, 4),
        replan_every=(), episodes=0, clips=2,
    )  # fmt: skip
    asked = curves.points_of(settings)
    assert [(p.curve, p.steps) for p in asked] == [
        ("action steps", {"num_video_steps": 4, "num_action_steps": 1}),
        ("action steps", {"num_video_steps": 4, "num_action_steps": 2}),
        ("video steps", {"num_video_steps": 2, "num_action_steps": 2}),
        ("video steps", {"num_video_steps": 4, "num_action_steps": 2}),
    ]
    curves.run(settings)
    points = json.loads((tmp_path / "points.json").read_text())
    assert all(p["psnr_db_low"] < p["psnr_db"] < p["psnr_db_high"] for p in points)
    assert points[1] | {"curve": "", "x": 0} == points[3] | {"curve": "", "x": 0}, "asked alike, answered alike"
    assert points[0]["action_position_m"] != points[1]["action_position_m"], "one step or two"
    drawn = ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == 4
    before = (tmp_path / "action-steps-01" / "open.json").stat().st_mtime_ns
    curves.run(settings)
    assert (tmp_path / "action-steps-01" / "open.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="choose another folder"):
        curves.run(Curves(**(vars(settings) | {"seed": 5})))


def test_replanning_changes_only_what_is_played(trained):
    root, last = trained
    settings = Curves(checkpoint=last, data=root / "data", tasks=("reach-v3",), replan_every=(4, 8))
    played = [p for p in curves.points_of(settings) if p.curve == "actions played"]
    assert [(p.steps, p.trial.replan_every, p.trial.num_clips) for p in played] == [({}, 4, 0), ({}, 8, 0)]


def test_a_point_counts_the_episodes_that_were_played(trained, tmp_path):
    root, last = trained
    trial = Trial(
        tasks=("reach-v3",), num_episodes=2, data=root / "data", num_clips=0, replan_every=8, max_steps=8, num_envs=1
    )
    settings = ClosedLoopConfig(
        tasks=("reach-v3",), num_episodes=2, seed=0, replan_every=8, max_steps=8, num_envs=1
    )  # fmt: skip
    episode = EpisodeResult(task="reach-v3", seed=UNSEEN, success=True, num_steps=5, action_seconds=0.1)
    episodes = [asdict(episode), asdict(replace(episode, seed=UNSEEN + 1, success=False))]
    policy = load_policy(last)
    write_json(tmp_path / "closed.json", {"settings": asdict(settings) | identity(policy), "episodes": episodes})
    assert measure(policy, tmp_path, trial) == {"wins": 1, "episodes": 2}
    with pytest.raises(ValueError, match="other settings"):
        measure(policy, tmp_path, replace(trial, replan_every=4))


def test_t_interval():
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    assert all(math.isnan(end) for end in t_interval([1.0]))
