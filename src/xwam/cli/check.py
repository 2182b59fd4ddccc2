"""The verb that compares what is with what should be."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional


def check(what: Annotated[Literal["golden", "memory"], Positional], target: Annotated[str, Positional]) -> None:
    """``golden DIR``: recompute recorded numbers of the published model; ``memory PRESET``: what it needs.

    Args:
        what: golden (exit code 1 when any number differs), memory.
        target: a folder of golden files; the name of a preset.
    """
    if what == "golden":
        return _check_golden(target)
    from xwam.evaluate.memory import markdown
    from xwam.presets import preset

    return print(markdown(preset(target)))


def _check_golden(folder: str) -> None:
    from xwam.evaluate.golden import check_golden

    failed = total = 0
    for case in check_golden(Path(folder)):
        total += 1
        failed += case.verdict == "FAIL"
        note = f" (bound {case.bound:.0e}): {case.note}" if case.verdict == "FAIL" else ""
        print(f"{case.name:<56} {case.error:8.1e}  {case.verdict}{note}", flush=True)
    print(f"{total} cases, {failed} FAIL")
    if failed:
        raise SystemExit(1)
