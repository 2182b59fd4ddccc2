"""The verb that compares what is with what should be."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def check(
    what: Annotated[Literal["data", "golden", "memory"], Positional],
    target: Annotated[str, Positional],
    robot: Path | None = None,
    preset_name: Annotated[str, arg(name="preset")] = "tiny",
    out: Path = Path("runs/check"),
    device: str = "cpu",
) -> None:
    """``data DIR``: find a data set's mistakes; ``golden DIR``: published numbers again; ``memory PRESET``.

    Args:
        what: data, golden (exit code 1 when anything is wrong), memory (what a preset needs).
        target: a LeRobot data set, or HDF5 files; a folder of golden files; the name of a preset.
        robot: the robot.json that says what the data set's numbers mean; our own need none.
        preset_name: for data, at which size the model sees the pictures.
        out: for data, where the page with pictures and plots goes.
        device: for golden, where the networks run.
    """
    takes = {"data": ("robot", "preset", "out"), "golden": ("device",), "memory": ()}[what]
    given = {"robot": robot is not None, "preset": preset_name != "tiny", "out": out != Path("runs/check")}
    for name, is_given in (given | {"device": device != "cpu"}).items():
        if is_given and name not in takes:
            raise ValueError(f"{name} is nothing that `xwam check {what}` looks at: leave it out.")
    if what == "data":
        _check_data(Path(target), robot, preset_name, out)
    elif what == "golden":
        _check_golden(target, device)
    else:
        from xwam.check.memory import markdown
        from xwam.presets import preset

        print(markdown(preset(target)))


def _check_data(root: Path, robot: Path | None, preset_name: str, out: Path) -> None:
    from dataclasses import replace

    from xwam.check.data import check_data, is_wrong
    from xwam.check.data_report import write_data_report
    from xwam.data.opening import is_published, open_recorded
    from xwam.presets import preset
    from xwam.robot.robot_json import load_robot

    if is_published(root):
        raise ValueError(
            f"data={root}: a published data set says itself what it holds; checked are LeRobot's format and HDF5 files."
        )
    mapping = None if robot is None else load_robot(robot)
    findings = check_data(root, mapping)
    can_be_read = not any(
        f.check in ("reading", "frame counts", "video frames", "NaN") for f in findings if f.level == "wrong"
    )
    episodes = open_recorded(root, robot=mapping) if can_be_read else None
    clip = preset(preset_name).clip
    clip = clip if episodes is None else replace(clip, action_hz=episodes.action_hz)
    write_data_report(out, findings, episodes, clip)
    for finding in findings:
        print(
            f"{finding.level.upper() if finding.level == 'wrong' else finding.level:<6} {finding.check}: {finding.text}"
        )
    print(f"{sum(f.level == 'wrong' for f in findings)} wrong; open {out / 'check.html'}")
    if is_wrong(findings):
        raise SystemExit(1)


def _check_golden(folder: str, device: str) -> None:
    from xwam.check.golden import check_golden

    failed = total = 0
    for case in check_golden(Path(folder), device=device):
        total += 1
        failed += case.verdict == "FAIL"
        note = f" (bound {case.bound:.0e}): {case.note}" if case.verdict == "FAIL" else ""
        print(f"{case.name:<56} {case.error:8.1e}  {case.verdict}{note}", flush=True)
    print(f"{total} cases, {failed} FAIL")
    if failed:
        raise SystemExit(1)
