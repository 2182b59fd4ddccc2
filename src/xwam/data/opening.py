"""One door to every format of recorded data: LeRobot's, and the published X-WAM data sets as they are."""

from pathlib import Path

from xwam.data.episodes import Episodes
from xwam.data.lerobot import open_lerobot
from xwam.data.xwam_json import METADATA_FILE, open_published
from xwam.robot.mapping import RobotConfig


def open_data(root: Path, *, robot: RobotConfig | None = None) -> Episodes:
    """Open a data set, whatever its format.

    ``robot`` explains a LeRobot data set of somebody else; ours and the published ones explain themselves. Raises
    FileNotFoundError or ValueError when something is missing or does not fit.
    """
    if not is_published(root):
        return open_lerobot(root, robot=robot)
    if robot is not None:
        raise ValueError(f"robot={robot.name!r}: {root} is a published data set, which explains itself; leave it out.")
    return open_published(root)


def is_published(root: Path) -> bool:
    """Whether this folder is in the published JSON + mp4 layout."""
    return (root / METADATA_FILE).is_file() and not (root / "meta" / "info.json").is_file()
