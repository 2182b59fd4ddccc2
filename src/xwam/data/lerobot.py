"""LeRobotDataset: v3.0 is what we write and read first; v2.0 and v2.1 are read too."""

from xwam.data.lerobot_read import LeRobotEpisodes, open_lerobot
from xwam.data.lerobot_write import DatasetWriter

__all__ = ["DatasetWriter", "LeRobotEpisodes", "open_lerobot"]
