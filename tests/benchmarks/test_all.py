"""Every study is imported: it names only modules and functions that exist."""

import importlib
from pathlib import Path

import pytest

STUDIES = sorted(
    path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if path.stem != "__init__"
)


@pytest.mark.parametrize("name", STUDIES)
def test_it_imports(name):
    importlib.import_module(f"benchmarks.{name}")
