"""What the Makefile runs is taken by the program, and what the documents show has options that it knows."""

import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro
from xwam_benchmarks import command

from xwam.cli import VERBS
from xwam.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "checkpoints/tiny/README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = re.findall(r"^((?:demo|bench|reproduce)[a-z-]*):", (ROOT / "Makefile").read_text(), re.M)


def shown_in(page: Path) -> list[str]:
    """The commands in code of a page, each on one line, without comments."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    inline = re.findall(r"`((?:xwam|python benchmarks/) ?[^`\n]*)`", text)
    blocks = re.findall(r"^ {4}(?:[A-Z_]+=\S+ )*((?:xwam|python benchmarks/) ?[^\n]*)", text, re.M)
    fenced = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    blocks += [line for line in fenced if line.startswith(("xwam ", "python benchmarks/"))]
    return [found.split(" #")[0].strip() for found in inline + blocks]


def recipe(target: str) -> list[str]:
    """The project's own commands that ``make TARGET`` would run."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = re.sub(r"\\\n\s*", " ", done.stdout).splitlines()
    lines = [re.sub(r"\$\(ls -d (\S+) \| tail -1\)", r"\1", line).removeprefix(".venv/bin/") for line in lines]
    return [line for line in lines if line.startswith(("xwam ", "python benchmarks/"))]


def take(words: list[str]) -> None:
    """Read a command's arguments as the program would, and do nothing. Raises SystemExit for wrong ones."""
    verb = VERBS[words[0]]

    @functools.wraps(verb)
    def nothing(*_: object, **__: object) -> None:
        pass

    tyro.cli(nothing, args=words[1:])


@functools.cache
def options_of(verb: str) -> set[str]:
    """All options of a verb, as its help shows them."""
    return set(re.findall(r"--[a-z0-9-]+", tyro.extras.get_parser(VERBS[verb]).format_help()))


def check_outside(words: list[str]) -> None:
    """What is typed in a simulator's environment; a mention without options is only a name."""
    if any(word.startswith("--") for word in words):
        command.parser().parse_args(words)
    else:
        assert words[:1] in ([], ["libero"], ["robocasa"]), words


def check_benchmark(words: list[str]) -> None:
    """The script is there, and its options are names in it, or among those of training."""
    text = (ROOT / words[1]).read_text() + (ROOT / "src/xwam/train/options.py").read_text()
    names = [word[2:].replace("-", "_") for word in words if word.startswith("--")]
    unknown = [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert not unknown, f"{words[1]}: {unknown}"


@pytest.mark.parametrize("target", RECIPES)
def test_recipes_are_taken(target):
    lines = recipe(target)
    assert lines
    for line in lines:
        words = shlex.split(line)
        if words[0] == "xwam":
            take(words[1:])
        else:
            check_benchmark(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_commands_are_taken(page):
    """The verb and the options must exist; whole commands with options are read as the program would."""
    for line in shown_in(page):
        words = shlex.split(line)
        if words[0] == "python":
            check_benchmark(words)
        elif words[0] == "xwam-benchmark":
            check_outside(words[1:])
        elif words[0] == "xwam" and len(words) > 1:
            assert words[1] in VERBS or "…" in words[1], f"{line}: no such verb"
            unknown = {word for word in words if word.startswith("--")} - options_of(words[1]) - {"--help"}
            assert not unknown, f"{line}: {unknown}"
            if any(word.startswith("--") for word in words[3:]) and "…" not in line:
                take(words[1:])


def test_help_names_every_preset():
    text = tyro.extras.get_parser(VERBS["train"]).format_help()
    assert [name for name in PRESETS if name not in text] == []


def test_a_wrong_command_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Say `xwam train tiny --no-such-option 3`.\n\n    xwam evaluate x \\\n        --data y  # why\n")
    assert shown_in(page) == ["xwam train tiny --no-such-option 3", "xwam evaluate x --data y"]
    assert "--no-such-option" not in options_of("train")
    assert "--learning-rate" in options_of("train")
    with pytest.raises(SystemExit):
        take(["train", "tiny", "--no-such-option", "3"])
