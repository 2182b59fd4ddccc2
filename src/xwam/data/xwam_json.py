"""Read the published data sets: one JSON file per episode, one mp4 per camera for RGB and one for depth.

``metadata.json`` maps an episode's key to its number of frames; ``data/<key>.json`` holds words, poses and gripper
openings per arm (``proprios`` what is, ``actions`` what is wanted) and, for RoboCasa, ``raw_actions``, the controller's
own commands. Cameras are sorted by name. Depth videos hold ``255 (1/z - 1/far) / (1/near - 1/far)``; near and far are
not in the files: they are those of the cameras passed in.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from xwam.data.episodes import EpisodeInfo, camera_named
from xwam.data.folders import files_below
from xwam.data.videos import read_frames
from xwam.files import Recent, fingerprint
from xwam.records import Camera
from xwam.robot.actions import deltas_between
from xwam.robot.calibration import load_cameras
from xwam.robot.layout import Layout, two_arm_layout
from xwam.robot.published import ON_HAND, ROBOTS
from xwam.robot.rotations import quat_from_matrix, quat_from_vector
from xwam.strict_json import suggest

ARMS = ("left", "right")
METADATA_FILE, CAMERAS_FILE = "metadata.json", "cameras.json"


class XwamJsonEpisodes:
    """A published data set as ``Episodes``; see open_xwam_json."""

    def __init__(
        self,
        root: Path,
        lengths: dict[str, int],
        layout: Layout,
        *,
        raw_actions: bool,
        action_skip: int,
        first_step: int,
    ) -> None:
        self.root, self.layout, self.raw_actions = root, layout, raw_actions
        self.action_skip, self.first_step = action_skip, first_step
        self._lengths, self._keys = lengths, list(lengths)
        self._recent = Recent[dict[str, Any]]()
        self._fingerprint: str | None = None
        views = self._views(0)
        self._fps = float(next(iter(views.values()))["fps"])
        self.action_hz = self._fps / action_skip
        self.cameras: tuple[Camera, ...] = tuple(self._camera(name, views[name]) for name in sorted(views))

    @property
    def num_episodes(self) -> int:
        """Episodes in the set."""
        return len(self._keys)

    @property
    def fingerprint(self) -> str:
        """Hash of every file's name, size and end (JSON: all of it), and of how they are read."""
        if self._fingerprint is None:
            beside = [path for name in (METADATA_FILE, CAMERAS_FILE) if (path := self.root / name).is_file()]
            paths = [*beside, *files_below(self.root / "data", {".json"}), *files_below(self.root, {".mp4"})]
            facts = (self.layout, self.raw_actions, self.action_skip, self.first_step)
            self._fingerprint = fingerprint(self.root, paths, *facts, [(c.near_m, c.far_m) for c in self.cameras])
        return self._fingerprint

    def key(self, episode: int) -> str:
        """The episode's name in metadata.json."""
        if not 0 <= episode < len(self._keys):
            raise ValueError(f"episode={episode}: must be in 0..{len(self._keys) - 1}.")
        return self._keys[episode]

    def length(self, episode: int) -> int:
        """Number of steps (every ``action_skip``-th frame from ``first_step`` on)."""
        return len(range(self.first_step, self._lengths[self.key(episode)], self.action_skip))

    def info(self, episode: int) -> EpisodeInfo:
        """Length, words, states and actions in the layout's units. Raises ValueError when the file does not fit."""
        content, path = self._content(episode), self._path(episode)
        state, action = _state(content, self.layout, path), self._action(content, path)
        expected = self._lengths[self.key(episode)]
        if len(state) != expected:
            raise ValueError(
                f"{path} has {len(state)} states: metadata.json says num_frames={expected}; copy it again."
            )
        state = state[self.first_step :: self.action_skip]
        try:
            self.layout.check_state(state)
            self.layout.check_quaternions(state)
            self.layout.check_action(action)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        instruction = next((text for text in content["instructions"] if text.strip()), None)
        if instruction is None:
            raise ValueError(f"{path} has instructions={content['instructions']}: it needs words; correct the file.")
        return EpisodeInfo(len(state), instruction, instruction, state, action)

    def frames(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
        """RGB images at these steps, exactly."""
        return self._read(episode, camera, "rgb_path", indices)

    def demonstrated(self, episode: int) -> None:
        """All actions are worth repeating: this layout cannot say otherwise."""

    def depth(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> Float32[np.ndarray, "T H W"] | None:
        """Metres at these steps; None when the episode has no depth video of this camera."""
        if not self._view(episode, camera).get("depth_path"):
            return None
        inverse = self._read(episode, camera, "depth_path", indices)[..., 0] / np.float32(255)
        known = camera_named(self.cameras, camera)
        nearest, farthest = 1 / known.near_m, 1 / known.far_m
        return (1 / (farthest + inverse * (nearest - farthest))).astype(np.float32)

    def _read(self, episode: int, camera: str, kind: str, indices: np.ndarray) -> np.ndarray:
        view = self._view(episode, camera)
        if indices.min() < 0 or indices.max() >= self.length(episode):
            raise ValueError(f"indices={indices.tolist()}: the episode has steps 0..{self.length(episode) - 1}.")
        numbers = view["start"] + self.first_step + self.action_skip * indices
        return read_frames(self.root / view[kind], numbers, self._fps)

    def _path(self, episode: int) -> Path:
        return self.root / "data" / f"{self.key(episode)}.json"

    def _content(self, episode: int) -> dict[str, Any]:
        return self._recent.get(self._path(episode), lambda path: json.loads(path.read_text()))

    def _views(self, episode: int) -> dict[str, Any]:
        return self._content(episode)["observations"]

    def _view(self, episode: int, camera: str) -> dict[str, Any]:
        views = self._views(episode)
        if camera not in views:
            raise ValueError(f"camera={camera!r} is not in {self._path(episode)}: {suggest(camera, views)}")
        view, length = views[camera], self._lengths[self.key(episode)]
        if view["end"] - view["start"] != length or float(view["fps"]) != self._fps:
            raise ValueError(
                f"{self._path(episode)} camera {camera!r} has start={view['start']}, end={view['end']}, "
                f"fps={view['fps']}: need {length} frames at {self._fps:g} fps; correct the file."
            )
        return view

    def _camera(self, name: str, view: dict[str, Any]) -> Camera:
        image = read_frames(self.root / view["rgb_path"], np.array([view["start"]]), self._fps)[0]
        return Camera(name=name, width=image.shape[1], height=image.shape[0], on_hand=name in ON_HAND)

    def _action(self, content: dict[str, Any], path: Path) -> Float64[np.ndarray, "M Da"]:
        """One action per step of this reading; none after the last steps when a skip would leave the episode."""
        if not self.raw_actions:
            return _deltas(content, self.layout, self.action_skip, path)[self.first_step :: self.action_skip]
        if "raw_actions" not in content["actions"]:
            raise ValueError(f"{path} has no raw_actions: pass raw_actions=False to use the poses.")
        raw = np.asarray(content["actions"]["raw_actions"], dtype=np.float64)
        action = np.zeros((len(raw), self.layout.action_width))
        width = int(self.layout.action_mask.sum())
        if raw.shape[1] != width:
            raise ValueError(
                f"{path} raw_actions has {raw.shape[1]} columns: layout {self.layout.name!r} uses {width}."
            )
        action[:, self.layout.action_mask] = raw
        return action


def open_xwam_json(
    root: Path,
    *,
    layout: Layout,
    raw_actions: bool = False,
    cameras: Sequence[Camera] | None = None,
    action_skip: int = 1,
    first_step: int = 0,
) -> XwamJsonEpisodes:
    """Open a data set in the published JSON + mp4 layout.

    ``layout``: a two_arm_layout (``raw_gripper=True`` for RoboCasa's ``raw_actions``). ``cameras``: calibration and
    depth range, where known. ``action_skip``: an action lasts this many frames (only every such frame is a step,
    beginning with ``first_step``); not with ``raw_actions``, whose commands cannot be added up.
    """
    path = root / METADATA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"root={root}: no metadata.json there; check the path.")
    if raw_actions and action_skip != 1:
        raise ValueError(f"action_skip={action_skip} with raw_actions: commands cannot be added up; use action_skip=1.")
    if not 0 <= first_step < action_skip:
        raise ValueError(f"first_step={first_step}: must be in 0..action_skip-1={action_skip - 1}.")
    episodes = XwamJsonEpisodes(
        root,
        json.loads(path.read_text()),
        layout,
        raw_actions=raw_actions,
        action_skip=action_skip,
        first_step=first_step,
    )
    if cameras is not None:
        for camera in cameras:
            camera_named(episodes.cameras, camera.name)
        episodes.cameras = tuple(cameras)
    return episodes


def open_published(root: Path) -> XwamJsonEpisodes:
    """Open a published data set by what it says itself: its arms, and the controller's commands where it holds them.

    One arm with commands is RoboCasa, two arms without are RoboTwin: their layouts are those of the published
    checkpoints. ``cameras.json`` beside ``metadata.json`` (robot/calibration.py), if there, says where the cameras
    stand and which metres the depth videos span; otherwise 0.1 to 10 m.
    """
    arms, is_raw = what_it_holds(root)
    if is_raw and arms == ("left",):
        layout = ROBOTS["robocasa"].layout
    elif arms == ARMS and not is_raw:
        layout = ROBOTS["robotwin"].layout
    else:
        name = "published_one_arm" if arms == ("left",) else "published_two_arms"
        layout = two_arm_layout(name, single_arm=arms == ("left",), raw_gripper=is_raw, delta_gripper=not is_raw)
    episodes = open_xwam_json(root, layout=layout, raw_actions=is_raw)
    if (root / CAMERAS_FILE).is_file():
        calibrated = load_cameras(root / CAMERAS_FILE)
        for camera in calibrated:
            seen = camera_named(episodes.cameras, camera.name)
            if (camera.width, camera.height) != (seen.width, seen.height):
                raise ValueError(
                    f"{root / CAMERAS_FILE} camera {camera.name!r} is {camera.width} x {camera.height}: its images are "
                    f"{seen.width} x {seen.height}; correct the file."
                )
        known = {camera.name: camera for camera in calibrated}
        episodes.cameras = tuple(known.get(camera.name, camera) for camera in episodes.cameras)
    return episodes


def what_it_holds(root: Path) -> tuple[tuple[str, ...], bool]:
    """The arms of a published data set's first episode, and whether its actions are the controller's own commands."""
    first = next(iter(json.loads((root / METADATA_FILE).read_text())), None)
    if first is None:
        raise ValueError(f"root={root}: {METADATA_FILE} names no episode; copy the data set again.")
    content = json.loads((root / "data" / f"{first}.json").read_text())
    return tuple(arm for arm in ARMS if f"{arm}_ee_pos" in content["proprios"]), "raw_actions" in content["actions"]


def _state(content: dict[str, Any], layout: Layout, path: Path) -> Float64[np.ndarray, "N Ds"]:
    """Position, quaternion and gripper opening of the layout's arms."""
    arms = _arms(layout)
    rows = {arm: _pose(content["proprios"], arm, path) for arm in arms}
    state = np.zeros((len(rows[arms[0]][0]), layout.state_width))
    for arm in arms:
        for part, values in zip(("position", "rotation", "gripper"), rows[arm], strict=True):
            state[:, layout.state_slice(f"{arm}_{part}")] = values
    return state


def _deltas(content: dict[str, Any], layout: Layout, skip: int, path: Path) -> Float64[np.ndarray, "M Da"]:
    """From the pose at each frame to the pose wanted ``skip - 1`` frames later; the gripper's change over ``skip``."""
    columns = {}
    for arm in _arms(layout):
        now, wanted = _pose(content["proprios"], arm, path), _pose(content["actions"], arm, path)
        count = len(now[0]) - skip + 1
        moves = deltas_between(now[0][:count], now[1][:count], wanted[0][skip - 1 :], wanted[1][skip - 1 :])
        opening = np.zeros((max(count, 0), 1))
        opening[: len(now[2]) - skip] = wanted[2][skip:] - now[2][:-skip]
        columns[arm] = (moves[:, :3], moves[:, 3:], opening)
    action = np.zeros((len(opening), layout.action_width))
    for arm, parts in columns.items():
        for part, values in zip(("position", "rotation", "gripper"), parts, strict=True):
            action[:, layout.action_slice(f"{arm}_{part}")] = values
    return action


def _arms(layout: Layout) -> list[str]:
    return [arm for arm in ARMS if layout.state_mask[layout.state_slice(f"{arm}_position")].all()]


def _pose(
    table: dict[str, Any], arm: str, path: Path
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 4"], Float[np.ndarray, "N 1"]]:
    """Position (m), quaternion and opening of one arm; rotations come as matrices (flat or not) or rotation vectors."""
    names = [f"{arm}_ee_pos", f"{arm}_ee_rotm", f"{arm}_gripper_pos"]
    for name in names:
        if name not in table:
            raise ValueError(f"{path} lacks {name}: the layout uses the {arm} arm; pass a layout without it.")
    position, rotation, opening = (np.asarray(table[name], dtype=np.float64) for name in names)
    if rotation.shape[1:] == (3,):
        quat = quat_from_vector(rotation)
    elif rotation.shape[1:] in ((9,), (3, 3)):
        quat = quat_from_matrix(rotation.reshape(-1, 3, 3))
    else:
        raise ValueError(f"{path} {names[1]} has shape {rotation.shape}: must be N x 9, N x 3 x 3 or N x 3.")
    # the published data set reads positions and openings as float32: small deltas keep the trace of it
    position, opening = (values.astype(np.float32).astype(np.float64) for values in (position, opening))
    return position, quat, opening.reshape(-1, 1)
