"""The robots of a checkpoint: its own, and those that the same weights learned from besides (``robots/<name>/``)."""

from collections.abc import Sequence
from pathlib import Path

from xwam.robot.calibration import load_cameras
from xwam.robot.robot_json import ROBOT_FILE, ROBOTS_FOLDER, RobotConfig, load_robot
from xwam.strict_json import suggest


def robot_folder(checkpoint: Path, robot: str | None) -> Path:
    """Where a robot's layout, statistics and cameras lie; None: the checkpoint's own robot."""
    folder = checkpoint if robot is None else checkpoint / ROBOTS_FOLDER / robot
    if not folder.is_dir():
        known = sorted(path.name for path in (checkpoint / ROBOTS_FOLDER).glob("*"))
        why = suggest(str(robot), known) if known else "it has one robot, its own; leave it out."
        raise ValueError(f"robot={robot!r} is not in {checkpoint}: {why}")
    return folder


def absent_views(folder: Path, view_names: Sequence[str]) -> frozenset[str]:
    """Views of the model that the robot lacks, as its robot.json, or else its cameras.json, says (neither: none)."""
    path = folder / ROBOT_FILE
    known = load_robot(path).view_names if path.is_file() else [c.name for c in load_cameras(folder / "cameras.json")]
    return frozenset(view_names) - frozenset(known) if known else frozenset()


def own_robot(checkpoint: Path, robot: str | None) -> RobotConfig | None:
    """What the numbers of a checkpoint's robot mean outside; None: they are the layout's own."""
    path = robot_folder(checkpoint, robot) / ROBOT_FILE
    return load_robot(path) if path.is_file() else None
