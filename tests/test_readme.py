"""What the README shows first runs as it stands there, and so does the demo."""

import re
from pathlib import Path

import pytest

from xwam.demo import run_demo

pytest.importorskip("metaworld")


def test_the_first_example(capsys, monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    exec(re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)[1], {})
    solved, shapes = capsys.readouterr().out.splitlines()
    assert solved == "solved: True"
    assert shapes == "(3, 9, 128, 128, 3) (3, 9, 128, 128)"


def test_the_demo_solves_its_task_and_shows_it(tmp_path):
    checkpoint = Path(__file__).parents[1] / "checkpoints/tiny"
    result = run_demo(task="button-press-topdown-v3", num_episodes=1, seed=0, out=tmp_path, checkpoint=checkpoint)
    assert result["success"] == [True]
    assert {"report.html", "result.json", "mosaic.mp4", "world-0-0.html"} <= {path.name for path in tmp_path.iterdir()}
