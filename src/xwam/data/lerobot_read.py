"""Read a LeRobotDataset: ours, one that a robot.json explains, or one with the columns of a layout.

Our own data sets bring layout and calibration along. Videos, and pictures in columns, are both read.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from xwam.data import lerobot_format as form
from xwam.data.annotated import ANNOTATIONS, AnnotatedDepth
from xwam.data.depth import codes_to_depth
from xwam.data.episodes import EpisodeInfo, camera_named
from xwam.data.lerobot_index import Row, VideoPlace, read_columns, read_info, read_pictures, read_rows
from xwam.data.videos import read_codes, read_frames, read_picture
from xwam.files import Recent, fingerprint
from xwam.records import Camera
from xwam.robot.columns import check_columns, read_action, read_state
from xwam.robot.layout import Layout, load_layout
from xwam.robot.mapping import RobotConfig, camera_of, layout_of, robot_fingerprint

Columns = Mapping[str, Float32[np.ndarray, "_N _n"]]


class View(NamedTuple):
    """How a camera's images are stored."""

    camera: Camera
    key: str
    depth_key: str | None
    upside_down: bool = False
    may_be_missing: bool = False


class Reading(NamedTuple):
    """How a data set is to be read: its columns and cameras, and what its numbers mean."""

    layout: Layout
    views: tuple[View, ...]
    keys: tuple[str, ...]
    states_and_actions: Callable[[Columns], tuple[np.ndarray, np.ndarray]]
    every: int = 1  # frames of one step
    instruction: str | None = None
    facts: tuple[str, ...] = ()  # what else changes the numbers


class LeRobotEpisodes:
    """A LeRobot data set as ``Episodes``; see open_lerobot."""

    def __init__(self, root: Path, info: dict[str, Any], reading: Reading) -> None:
        self.root, self.facts, self.reading = root, info, reading
        self.layout = reading.layout
        self.cameras = tuple(view.camera for view in reading.views)
        self.fps = float(info["fps"])
        self.action_hz = self.fps / reading.every
        self._views = {view.camera.name: view for view in reading.views}
        self._features = info["features"]
        keys = [key for view in reading.views for key in (view.key, view.depth_key) if key is not None]
        keys = [key for key in keys if self._features[key]["dtype"] == "video"]
        optional = {key for view in reading.views if view.may_be_missing for key in (view.key, view.depth_key or "")}
        self._rows = read_rows(root, info, keys, optional=optional, instruction=reading.instruction)
        self.annotated = AnnotatedDepth(root)
        self._recent = Recent[dict[int, dict[str, np.ndarray]]]()
        self._marks = Recent[dict[int, dict[str, np.ndarray]]](most=10_000)  # small, and asked for at every start
        self._fingerprint: str | None = None

    @property
    def num_episodes(self) -> int:
        """Episodes in the set."""
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """Hash of layout, cameras, and every file's size and end (where mp4 and parquet keep their index)."""
        if self._fingerprint is None:
            folders = [self.root / name for name in ("data", "videos", "meta/episodes", ANNOTATIONS)]
            kinds = {".parquet", ".mp4", ".json"}  # .json: the provenance of added depth
            paths = [p for folder in folders for p in folder.rglob("*") if p.suffix in kinds]
            paths += [path for path in [self.root / form.OLD_EPISODES] if path.is_file()]
            cameras = [form.calibration(camera) for camera in self.cameras]
            depth = [self._features[view.depth_key].get("info") for view in self.reading.views if view.depth_key]
            facts = (self.layout, cameras, self.num_episodes, self.action_hz, *self.reading.facts)
            facts += (depth, form.DEMONSTRATED in self._features)
            self._fingerprint = fingerprint(self.root, paths, *facts)
        return self._fingerprint

    def length(self, episode: int) -> int:
        """Number of steps."""
        return -(-self.row(episode).length // self.reading.every)

    def row(self, episode: int) -> Row:
        """Where an episode lies."""
        if not 0 <= episode < len(self._rows):
            raise ValueError(f"episode={episode}: must be in 0..{len(self._rows) - 1}.")
        return self._rows[episode]

    def columns(self, episode: int) -> dict[str, Float32[np.ndarray, "_N _n"]]:
        """The columns as they are stored, frame by frame; empty when the file lacks the episode."""
        found = self._recent.get(self.row(episode).data, lambda path: read_columns(path, self.reading.keys))
        return found.get(episode, {key: np.zeros((0, 0), np.float32) for key in self.reading.keys})

    def info(self, episode: int) -> EpisodeInfo:
        """Length, words, states and actions (as the layout says). Raises ValueError on NaN or missing steps."""
        row, columns = self.row(episode), self.columns(episode)
        found = len(next(iter(columns.values())))
        if found != row.length:
            raise ValueError(
                f"episode={episode} has {found} steps in {row.data}, meta/episodes says {row.length}: "
                "the data set is damaged; copy it again."
            )
        try:
            state, action = self.reading.states_and_actions(columns)
            self.layout.check_state(state)
            self.layout.check_quaternions(state)
            self.layout.check_action(action)
        except ValueError as error:
            raise ValueError(f"episode={episode} of {self.root}: {error}") from error
        return EpisodeInfo(len(state), row.instruction, row.task, state, action)

    def demonstrated(self, episode: int) -> Bool[np.ndarray, " N"] | None:
        """Which actions are worth repeating, None for all: those that the column ``is_demonstration`` marks.

        None of an episode whose ``success`` is False. An action of several frames counts when all of them do.
        """
        row = self.row(episode)
        if not row.success:
            return np.zeros(self.length(episode), dtype=bool)
        if form.DEMONSTRATED not in self._features:
            return None
        marks = self._marks.get(row.data, lambda path: read_columns(path, [form.DEMONSTRATED]))
        flags = marks[episode][form.DEMONSTRATED][:, 0] > 0 if episode in marks else np.zeros(row.length, dtype=bool)
        return np.logical_and.reduceat(flags, np.arange(0, len(flags), self.reading.every))

    def frames(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"] | None:
        """RGB images at these steps, exactly; None when the episode lacks this camera.

        Raises ValueError when the video is damaged or of another size.
        """
        view = self._view(episode, camera, indices)
        if self._features[view.key]["dtype"] == "image":
            pictures = read_pictures(self.row(episode).data, view.key, episode)
            frames = np.stack([read_picture(pictures[i]) for i in (indices * self.reading.every).tolist()])
            return self._sized(frames, view, self.row(episode).data)
        place = self.video(episode, view.key)
        if place is None:
            return None
        frames = read_frames(place.path, indices * self.reading.every, self.fps, first_s=place.first_s)
        return self._sized(frames, view, place.path)

    def depth(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> Float32[np.ndarray, "T H W"] | None:
        """Metres at these steps, 0 where unknown; None when this camera has none.

        Measured depth goes before depth that a teacher added (annotated.py).
        """
        view = self._view(episode, camera, indices)
        place = None if view.depth_key is None else self.video(episode, view.depth_key)
        if place is None:
            return self.annotated.read(episode, camera, indices * self.reading.every, self.fps)
        coding = form.stored_coding(self._features[view.depth_key]["info"])
        codes = read_codes(place.path, indices * self.reading.every, self.fps, first_s=place.first_s)
        return codes_to_depth(self._sized(codes, view, place.path), coding)

    def has_measured_depth(self, episode: int, camera: str) -> bool:
        """True when the data set itself brings depth of this camera along."""
        camera_named(self.cameras, camera)
        key = self._views[camera].depth_key
        return key is not None and self.video(episode, key) is not None

    def video(self, episode: int, key: str) -> VideoPlace | None:
        """The file of a video feature; None when the episode lacks it."""
        return self.row(episode).videos.get(key)

    def _view(self, episode: int, camera: str, indices: np.ndarray) -> View:
        camera_named(self.cameras, camera)
        length = self.length(episode)
        if indices.min() < 0 or indices.max() >= length:
            raise ValueError(f"indices={indices.tolist()}: episode {episode} has frames 0..{length - 1}.")
        return self._views[camera]

    def _sized(self, frames: np.ndarray, view: View, path: Path) -> np.ndarray:
        expected = view.camera
        if frames.shape[1:3] != (expected.height, expected.width):
            raise ValueError(
                f"video={path} has size {frames.shape[1:3]}: camera {expected.name!r} is {expected.height} high and "
                f"{expected.width} wide; encode it again or correct meta/info.json."
            )
        return frames[:, ::-1, ::-1].copy() if view.upside_down else frames


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
        views.append(View(camera, form.video_key(camera.name), depth_key if depth_key in features else None))
    return Reading(layout, tuple(views), tuple(widths), _own_vectors)


def _reading_of_robot(root: Path, info: dict[str, Any], robot: RobotConfig) -> Reading:
    """Columns and cameras as a robot.json says."""
    features = info["features"]
    if abs(info["fps"] - robot.fps) > 0.01 * robot.fps:
        raise ValueError(
            f"root={root} has fps={info['fps']:g}: robot {robot.name!r} says action_hz={robot.action_hz:g} times "
            f"frames_per_action={robot.frames_per_action}, which is {robot.fps:g}; correct one of them."
        )
    pictures = {name for name, feature in features.items() if feature["dtype"] in ("video", "image")}
    columns = {name: feature for name, feature in features.items() if name not in pictures}
    check_columns(robot, {name: int(np.prod(feature["shape"])) for name, feature in columns.items()})
    views = []
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
        camera = camera_of(robot, source, size.width, size.height)
        views.append(View(camera, source.key, source.depth_key, source.upside_down, source.may_be_missing))
    facts = (robot_fingerprint(robot),)
    read, every = functools.partial(_mapped_vectors, robot), robot.frames_per_action
    return Reading(layout_of(robot), tuple(views), robot.keys, read, every, robot.instruction, facts)


def _own_vectors(rows: Columns) -> tuple[Float[np.ndarray, "N Ds"], Float[np.ndarray, "M Da"]]:
    return rows["observation.state"], rows["action"]


def _mapped_vectors(robot: RobotConfig, rows: Columns) -> tuple[Float[np.ndarray, "N Ds"], Float[np.ndarray, "M Da"]]:
    state = read_state(robot, rows)[:: robot.frames_per_action]
    return state.astype(np.float32), read_action(robot, rows).astype(np.float32)


def _cameras(features: dict[str, Any]) -> tuple[Camera, ...]:
    prefix = form.video_key("")
    cameras = []
    for key, feature in features.items():
        if key.startswith(prefix) and feature["dtype"] in ("video", "image") and not form.is_depth(feature):
            cameras.append(form.camera_from_feature(key.removeprefix(prefix), feature))
    return tuple(cameras)
