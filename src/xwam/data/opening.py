"""One door to every format of recorded data: LeRobot's, HDF5 files, and the published X-WAM data sets as they are."""

from pathlib import Path

from xwam.data.episodes import Episodes
from xwam.data.hdf5_index import SUFFIXES, hdf5_files
from xwam.data.hdf5_read import open_hdf5
from xwam.data.lerobot import open_lerobot
from xwam.data.recorded import RecordedEpisodes
from xwam.data.xwam_json import METADATA_FILE, open_published
from xwam.robot.of_checkpoint import own_robot
from xwam.robot.robot_json import ROBOTS_FOLDER, RobotConfig

INFO_FILE = "meta/info.json"  # of LeRobot's


def open_data(root: Path, *, robot: RobotConfig | None = None) -> Episodes:
    """Open a data set, whatever its format.

    ``robot`` explains HDF5 files, and a LeRobot data set of somebody else; ours and the published ones explain
    themselves. Raises FileNotFoundError or ValueError when something is missing or does not fit.
    """
    if not is_published(root):
        return open_recorded(root, robot=robot)
    if robot is not None:
        raise ValueError(f"robot={robot.name!r}: {root} is a published data set, which explains itself; leave it out.")
    return open_published(root)


def open_recorded(root: Path, *, robot: RobotConfig | None = None) -> RecordedEpisodes:
    """The same for all but the published data sets: columns that a robot.json, or the data set's layout, explains."""
    if (root / INFO_FILE).is_file():
        return open_lerobot(root, robot=robot)
    if not hdf5_files(root):
        raise FileNotFoundError(
            f"root={root}: neither a LeRobot data set ({INFO_FILE}) nor HDF5 files ({', '.join(SUFFIXES)}) there; "
            "check the path."
        )
    if robot is None:
        raise ValueError(
            f"root={root} holds HDF5 files: pass robot= (a robot.json, docs/extend.md), which explains them."
        )
    return open_hdf5(root, robot=robot)


def robot_for(checkpoint: Path, robot: str | None, data: Path) -> RobotConfig | None:
    """The robot.json by which to read a data set: the checkpoint's, unless the data set explains itself (None).

    Raises ValueError when nothing explains it.
    """
    explains_itself = is_published(data) or (data / "meta" / "layout.json").is_file()
    own = None if explains_itself else own_robot(checkpoint, robot)
    if own is None and not explains_itself:
        others = sorted(path.name for path in (checkpoint / ROBOTS_FOLDER).glob("*"))
        advice = (
            f"name its robot (--robot {' or '.join(others)})" if others else "train on this data with --robot first"
        )
        raise ValueError(
            f"data={data} says not what its numbers mean, and neither does the checkpoint {checkpoint}, whose own "
            f"robot has no robot.json: {advice}, or give data that xwam recorded."
        )
    return own


def is_published(root: Path) -> bool:
    """Whether this folder is in the published JSON + mp4 layout."""
    return (root / METADATA_FILE).is_file() and not (root / INFO_FILE).is_file() and not hdf5_files(root)
