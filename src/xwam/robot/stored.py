"""The robots of a checkpoint: its own, and those that the same weights learned from besides (``robots/<name>/``)."""

from collections.abc import Sequence
from pathlib import Path

from xwam.config import suggest
from xwam.robot.mapping import ROBOT_FILE, ROBOTS_FOLDER, load_robot


def robot_folder(checkpoint: Path, robot: str | None) -> Path:
    """Where a robot's layout, statistics and cameras lie; None: the checkpoint's own robot."""
    folder = checkpoint if robot is None else checkpoint / ROBOTS_FOLDER / robot
    if not folder.is_dir():
        known = sorted(path.name for path in (checkpoint / ROBOTS_FOLDER).glob("*"))
        raise ValueError(f"robot={robot!r} is not in {checkpoint}: {suggest(str(robot), known)}")
    return folder


def absent_views(folder: Path, view_names: Sequence[str]) -> frozenset[str]:
    """Views of the model that the robot lacks, if its robot.json says which cameras it has."""
    path = folder / ROBOT_FILE
    return frozenset(view_names) - frozenset(load_robot(path).view_names) if path.is_file() else frozenset()
