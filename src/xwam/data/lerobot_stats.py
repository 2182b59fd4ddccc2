"""meta/stats.json of a LeRobot data set: exact numbers over the whole set, under LeRobot's keys."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from xwam.data import lerobot_format as form
from xwam.data.depth import codes_to_depth
from xwam.data.videos import read_codes, read_frames
from xwam.files import write_text

NO_PARTS: Any = None  # its type says str, its documentation None
MOST_IMAGES = 100  # images are counted on at most this many frames, spread over the data set
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def write_stats(root: Path, info: dict[str, Any], num_episodes: int) -> None:
    """Count every column exactly and images on a sample, and write stats.json."""
    paths = [root / form.DATA_PATH.format(**form.place(i)) for i in range(num_episodes)]
    stats = {}
    for name, feature in info["features"].items():
        if feature["dtype"] == "video":
            values = _pixels(root, name, info, num_episodes)
            shape: tuple[int, ...] = (-1, 1, 1)
        else:
            # a folder named seed=3 is no column of that name
            column = pq.read_table(paths, columns=[name], partitioning=NO_PARTS)[name].combine_chunks()
            flat = column.flatten() if feature["shape"][0] > 1 else column
            values = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float64)
            shape = (-1,)
        stats[name] = {key: row.reshape(shape).tolist() for key, row in _numbers(values).items()}
        stats[name]["count"] = [len(values)]
    write_text(root / "meta" / "stats.json", json.dumps(stats, indent=4))


def _numbers(values: Float[np.ndarray, "count width"]) -> dict[str, np.ndarray]:
    rows = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return rows | dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))


def _pixels(root: Path, key: str, info: dict[str, Any], num_episodes: int) -> Float[np.ndarray, "count channels"]:
    """Some pixels of some first frames: RGB in [0, 1], depth in metres."""
    facts = info["features"][key]["info"]
    rows = []
    for episode in np.unique(np.linspace(0, num_episodes - 1, MOST_IMAGES).astype(int)):
        path = root / form.VIDEO_PATH.format(video_key=key, **form.place(int(episode)))
        if facts["is_depth_map"]:
            coding = form.stored_coding(facts)
            frame = codes_to_depth(read_codes(path, np.array([0]), float(info["fps"])), coding)[..., None]
        else:
            frame = read_frames(path, np.array([0]), float(info["fps"])) / 255
        rows.append(frame[0, ::4, ::4].reshape(-1, frame.shape[-1]).astype(np.float64))
    return np.concatenate(rows)
