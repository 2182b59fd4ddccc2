"""Read a LeRobotDataset: ours, one that a robot.json explains, or one with the columns of a layout.

Our own data sets bring layout and calibration along. Videos, and pictures in columns, are both read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from xwam.data import lerobot_format as form
from xwam.data.annotated import ANNOTATIONS
from xwam.data.depth import codes_to_depth
from xwam.data.episodes import camera_named
from xwam.data.folders import files_below
from xwam.data.lerobot_index import VideoPlace, VideoRow, read_columns, read_info, read_pictures, read_rows
from xwam.data.recorded import Columns, Reading, RecordedEpisodes, View, reading_of
from xwam.data.videos import read_all, read_codes, read_frames
from xwam.files import Recent, fingerprint
from xwam.records import Camera
from xwam.robot.columns import check_columns
from xwam.robot.layout import Layout, load_layout, same_rate
from xwam.robot.parts import CameraSource
from xwam.robot.robot_json import RobotConfig


class LeRobotEpisodes(RecordedEpisodes[VideoRow]):
    """A LeRobot data set as ``Episodes``; see open_lerobot."""

    def __init__(self, root: Path, info: dict[str, Any], reading: Reading) -> None:
        self.facts, self._features = info, info["features"]
        sources = [view.source for view in reading.views]
        keys = [key for source in sources for key in (source.key, source.depth_key) if key is not None]
        keys = [key for key in keys if self._features[key]["dtype"] == "video"]
        optional = {key for source in sources if source.may_be_missing for key in (source.key, source.depth_key or "")}
        rows = read_rows(root, info, keys, optional=optional, instruction=reading.instruction)
        super().__init__(root, float(info["fps"]), reading, rows)
        self._recent = Recent[dict[int, dict[str, np.ndarray]]]()
        self._flags = Recent[dict[int, dict[str, np.ndarray]]](most=10_000)  # small, and asked for at every start
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of layout, cameras, and every file's size and end (where mp4 and parquet keep their index)."""
        if self._fingerprint is None:
            folders = [self.root / name for name in ("data", "videos", "meta/episodes", ANNOTATIONS)]
            kinds = {".parquet", ".mp4", ".json"}  # .json: the provenance of added depth
            paths = [path for folder in folders for path in files_below(folder, kinds)]
            paths += [path for path in [self.root / form.OLD_EPISODES] if path.is_file()]
            cameras = [form.calibration(camera) for camera in self.cameras]
            depths = [view.source.depth_key for view in self.reading.views if view.source.depth_key]
            facts = (self.layout, cameras, self.num_episodes, self.action_hz, *self.reading.facts)
            facts += ([self._features[key].get("info") for key in depths], self.marked_by == form.DEMONSTRATED)
            facts += (form.INTERVENTION,) if self.marked_by == form.INTERVENTION else ()
            self._fingerprint = fingerprint(self.root, paths, *facts)
        return self._fingerprint

    @property
    def marked_by(self) -> str | None:
        """The column that says which actions are worth repeating: ours, or LeRobot's of a person who corrected."""
        return next((name for name in (form.DEMONSTRATED, form.INTERVENTION) if name in self._features), None)

    def columns(self, episode: int) -> dict[str, Float32[np.ndarray, "_N _n"]]:
        """The columns as they are stored, frame by frame; empty when the file lacks the episode."""
        found = self._recent.get(self.row(episode).data, lambda path: read_columns(path, self.reading.keys))
        return found.get(episode, {key: np.zeros((0, 0), np.float32) for key in self.reading.keys})

    def video(self, episode: int, key: str) -> VideoPlace | None:
        """The file of a video feature; None when the episode lacks it."""
        return self.row(episode).videos.get(key)

    def _holds(self, episode: int, key: str) -> bool:
        return self._features[key]["dtype"] == "image" or self.video(episode, key) is not None

    def _stored_frames(
        self, episode: int, view: View, numbers: Int[np.ndarray, " T"]
    ) -> UInt8[np.ndarray, "T H W 3"] | None:
        key = view.source.key
        if self._features[key]["dtype"] == "image":
            pictures = read_pictures(self.row(episode).data, key, episode)
            where = f"episode={episode} of {self.root} key={key!r}"
            if len(pictures) <= numbers.max():
                raise ValueError(
                    f"{where} has {len(pictures)} pictures, not {self.row(episode).length}: copy it again."
                )
            return read_all((pictures[i] for i in numbers.tolist()), where)
        place = self.video(episode, key)
        return None if place is None else read_frames(place.path, numbers, self.fps, first_s=place.first_s)

    def _stored_depth(
        self, episode: int, view: View, numbers: Int[np.ndarray, " T"]
    ) -> Float32[np.ndarray, "T H W"] | None:
        assert view.source.depth_key is not None
        place = self.video(episode, view.source.depth_key)
        if place is None:
            return None
        coding = form.stored_coding(self._features[view.source.depth_key]["info"])
        return codes_to_depth(read_codes(place.path, numbers, self.fps, first_s=place.first_s), coding)

    def _marks(self, episode: int) -> Bool[np.ndarray, " _N"] | None:
        if (name := self.marked_by) is None:
            return None
        row = self.row(episode)
        marks = self._flags.get(row.data, lambda path: read_columns(path, [name]))
        return marks[episode][name][:, 0] > 0 if episode in marks else np.zeros(row.length, dtype=bool)


def open_lerobot(
    root: Path,
    *,
    layout: Layout | None = None,
    cameras: Sequence[Camera] | None = None,
    robot: RobotConfig | None = None,
) -> LeRobotEpisodes:
    """Open a LeRobotDataset (v3.0, v2.1 or v2.0).

    Our own data sets bring layout and calibration along. Any other needs a ``robot``; or, when its columns
    ``observation.state`` and ``action`` already are those of a layout, that ``layout`` and, for point clouds,
    calibrated cameras (a subset of the data set's). Raises FileNotFoundError or ValueError when something is missing or
    does not fit.
    """
    info = read_info(root)
    if robot is not None:
        return LeRobotEpisodes(root, info, _reading_of_robot(root, info, robot))
    stored = root / "meta" / "layout.json"
    if layout is None:
        if not stored.is_file():
            raise ValueError(
                f"root={root} has no meta/layout.json: pass robot= (a robot.json, docs/extend.md) or layout=; "
                "one of them says what the slots mean."
            )
        layout = load_layout(stored)
    return LeRobotEpisodes(root, info, _reading_of_layout(root, info["features"], layout, cameras))


def _reading_of_layout(
    root: Path, features: dict[str, Any], layout: Layout, cameras: Sequence[Camera] | None
) -> Reading:
    """Columns that are the layout's own vectors, cameras under LeRobot's usual names."""
    widths = {"observation.state": layout.state_width, "action": layout.action_width}
    for name, width in widths.items():
        shape = list(features[name]["shape"]) if name in features else None
        if shape != [width]:
            raise ValueError(f"root={root} feature {name!r} has shape {shape}: layout {layout.name!r} needs [{width}].")
    known = _cameras(features)
    if cameras is None:
        cameras = known
    for camera in cameras:
        size = camera_named(known, camera.name)
        if (camera.height, camera.width) != (size.height, size.width):
            raise ValueError(
                f"camera={camera.name!r} is {camera.height} x {camera.width}: the data set's images are "
                f"{size.height} x {size.width} (height x width); give the camera of those images."
            )
    views = []
    for camera in cameras:
        depth_key = form.depth_key(camera.name)
        known_depth = depth_key if depth_key in features else None
        views.append(
            View(camera, CameraSource(name=camera.name, key=form.video_key(camera.name), depth_key=known_depth))
        )
    executed = form.EXECUTED if form.EXECUTED in features else None
    keys = (*widths, executed) if executed else tuple(widths)
    return Reading(layout, tuple(views), keys, _own_vectors, executed=executed)


def _reading_of_robot(root: Path, info: dict[str, Any], robot: RobotConfig) -> Reading:
    """Columns and cameras as a robot.json says."""
    features = info["features"]
    if not same_rate(float(info["fps"]), robot.fps):
        raise ValueError(
            f"root={root} has fps={info['fps']:g}: robot {robot.name!r} says action_hz={robot.action_hz:g} times "
            f"frames_per_action={robot.frames_per_action}, which is {robot.fps:g}; correct one of them."
        )
    pictures = {name for name, feature in features.items() if feature["dtype"] in ("video", "image")}
    columns = {name: feature for name, feature in features.items() if name not in pictures}
    check_columns(robot, {name: int(np.prod(feature["shape"])) for name, feature in columns.items()})
    sizes = {}
    for source in robot.cameras:
        for key in (source.key, source.depth_key):
            if key is not None and key not in pictures:
                raise ValueError(f"camera {source.name!r} key={key!r}: {form.suggest_key(key, pictures)}")
        if source.depth_key is not None and not form.is_coded_depth(features[source.depth_key]):
            raise ValueError(
                f"camera {source.name!r} depth_key={source.depth_key!r}: must be a depth video whose info has "
                f"{', '.join(form.DEPTH_CODING)}; leave it out, or encode it so."
            )
        size = form.camera_from_feature(source.name, features[source.key])
        sizes[source.name] = (size.height, size.width)
    return reading_of(robot, sizes)


def _own_vectors(rows: Columns) -> tuple[Float[np.ndarray, "N Ds"], Float[np.ndarray, "M Da"]]:
    return rows["observation.state"], rows["action"]


def _cameras(features: dict[str, Any]) -> tuple[Camera, ...]:
    prefix = form.video_key("")
    cameras = []
    for key, feature in features.items():
        if key.startswith(prefix) and feature["dtype"] in ("video", "image") and not form.is_depth(feature):
            cameras.append(form.camera_from_feature(key.removeprefix(prefix), feature))
    return tuple(cameras)
