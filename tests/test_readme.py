"""What the README shows first runs as it stands there."""

import re
from pathlib import Path

import pytest

pytest.importorskip("metaworld")


def test_the_first_example(capsys, monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    exec(re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)[1], {})
    solved, shapes = capsys.readouterr().out.splitlines()
    assert solved in ("solved: True", "solved: False"), "98 % of placements are"
    assert shapes == "(3, 9, 128, 128, 3) (3, 9, 128, 128)"
