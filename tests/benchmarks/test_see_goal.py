"""What a policy could see, and whether it looks: both tables, on the real simulator."""

import numpy as np
import pytest

from benchmarks.see_goal import SeeGoal, missed_by, run

pytest.importorskip("metaworld")


def test_a_goal_that_stands_in_the_features_is_read():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 30))
    goals = features[:, :3] * 0.1
    assert missed_by(features, goals, 50)[0] < 0.02
    assert missed_by(rng.normal(size=(60, 30)), goals, 50)[0] > 0.05


def test_both_tables(trained):
    _, last = trained
    text = run(SeeGoal(checkpoint=last, learn=6, ask=3))
    read, moved = text.split("\n\n")
    assert [row.split("|")[1].strip() for row in read.splitlines()[2:]] == ["latents", "pictures", "guessing the mean"]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in moved.splitlines()[2:]]
    assert [row[0] for row in rows] == ["x", "y", "z"]
    assert all(abs(float(row[3])) <= 1 for row in rows)
    assert all(int(row[1].split()[0]) > 0 for row in rows), "the expert goes to different goals"
