"""Episodes whose states and actions stand in columns, whatever files hold them.

A format says where each episode lies (``Row``) and reads columns, pictures and depth as they are stored; a ``Reading``
says what they mean; the rest is the same for all and is here.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

from xwam.data.annotated import AnnotatedDepth
from xwam.data.episodes import EpisodeInfo, camera_named
from xwam.files import folder_of
from xwam.records import Camera
from xwam.robot.columns import read_action, read_state
from xwam.robot.layout import Layout
from xwam.robot.parts import CameraSource
from xwam.robot.robot_json import RobotConfig, camera_of, layout_of, robot_fingerprint

Columns = Mapping[str, Float32[np.ndarray, "_N _n"]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One episode: its length in frames, its words, the file of its numbers."""

    length: int
    instruction: str
    task: str
    data: Path
    num_tasks: int = 1  # that it is said to hold; its words are those of the first
    success: bool = True  # where the data set does not say


def is_success(said: object, where: str) -> bool:
    """What a data set says of an episode; True where it says nothing (None).

    Raises ValueError for what is neither true nor false: a text would always be true.
    """
    if not isinstance(said, bool | int | float | np.bool_ | np.integer | np.floating | None):
        raise ValueError(f"{where} 'success' is {said!r}: must be true or false (or 1, 0).")
    return said is None or bool(said)


R = TypeVar("R", bound=Row)


class View(NamedTuple):
    """A camera, and how its pictures are stored."""

    camera: Camera
    source: CameraSource


class Reading(NamedTuple):
    """How a data set is to be read: its columns and cameras, and what its numbers mean."""

    layout: Layout
    views: tuple[View, ...]
    keys: tuple[str, ...]
    states_and_actions: Callable[[Columns], tuple[np.ndarray, np.ndarray]]
    every: int = 1  # frames of one step
    ahead: int = 0  # rows by which actions, and what is said of them, stand later
    instruction: str | None = None
    facts: tuple[str, ...] = ()  # what else changes the numbers
    executed: str | None = None  # the column, of the layout's own vectors, of what the robot really did


def reading_of(robot: RobotConfig, sizes: Mapping[str, tuple[int, int]]) -> Reading:
    """The reading that a robot.json describes; ``sizes``: height and width of each camera's pictures."""
    views = [View(camera_of(robot, s, sizes[s.name][1], sizes[s.name][0]), s) for s in robot.cameras]
    read, every = functools.partial(_mapped_vectors, robot), robot.frames_per_action
    facts = (robot_fingerprint(robot),)
    return Reading(
        layout_of(robot), tuple(views), robot.keys, read, every, robot.action_ahead, robot.instruction, facts
    )


class RecordedEpisodes(ABC, Generic[R]):
    """A data set as ``Episodes``. A step is ``reading.every`` frames; all else here counts steps."""

    def __init__(self, root: Path, fps: float, reading: Reading, rows: Sequence[R]) -> None:
        self.root, self.fps, self.reading, self.rows = root, fps, reading, rows
        self.layout = reading.layout
        self.cameras = tuple(view.camera for view in reading.views)
        self.action_hz = fps / reading.every
        self.annotated = AnnotatedDepth(folder_of(root))
        self._views = {view.camera.name: view for view in reading.views}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when anything that is read changes."""

    def label(self, episode: int) -> str:
        """A name for an episode that stays when others come and go."""
        return str(episode)

    def source(self, camera: str) -> CameraSource:
        """Where a camera's pictures are, and how they are stored."""
        return self._views[camera].source

    @abstractmethod
    def columns(self, episode: int) -> dict[str, Float32[np.ndarray, "_N _n"]]:
        """The columns as they are stored, frame by frame; empty when the file lacks the episode."""

    @abstractmethod
    def _holds(self, episode: int, key: str) -> bool:
        """True when the episode has these pictures, or this depth."""

    @abstractmethod
    def _stored_frames(
        self, episode: int, view: View, numbers: Int[np.ndarray, " T"]
    ) -> UInt8[np.ndarray, "T H W 3"] | None:
        """The pictures of these frames; None when the episode lacks them."""

    @abstractmethod
    def _stored_depth(
        self, episode: int, view: View, numbers: Int[np.ndarray, " T"]
    ) -> Float32[np.ndarray, "T H W"] | None:
        """Metres of these frames; None when the episode lacks them."""

    @abstractmethod
    def _marks(self, episode: int) -> Bool[np.ndarray, " _N"] | None:
        """Which frames' actions are worth repeating; None when the data set does not say."""

    @property
    def num_episodes(self) -> int:
        """Episodes in the set."""
        return len(self.rows)

    @property
    def with_several_tasks(self) -> list[int]:
        """Episodes that hold several tasks: all of such a one gets the first task's words."""
        return [number for number, row in enumerate(self.rows) if row.num_tasks > 1]

    def has_pictures(self, episode: int, camera: str) -> bool:
        """True when the episode has this camera."""
        camera_named(self.cameras, camera)
        return self._holds(episode, self._views[camera].source.key)

    def has_measured_depth(self, episode: int, camera: str) -> bool:
        """True when the data set itself brings depth of this camera along."""
        camera_named(self.cameras, camera)
        key = self._views[camera].source.depth_key
        return key is not None and self._holds(episode, key)

    def row(self, episode: int) -> R:
        """Where an episode lies."""
        if not 0 <= episode < len(self.rows):
            raise ValueError(f"episode={episode}: must be in 0..{len(self.rows) - 1}.")
        return self.rows[episode]

    def length(self, episode: int) -> int:
        """Number of steps."""
        return -(-self.row(episode).length // self.reading.every)

    def info(self, episode: int) -> EpisodeInfo:
        """Length, words, states and actions (as the layout says). Raises ValueError on NaN or missing steps."""
        row, columns = self.row(episode), self.columns(episode)
        for key, values in columns.items():
            if len(values) != row.length:
                raise ValueError(
                    f"episode={episode} has {len(values)} rows of {key!r} in {row.data} and should have {row.length}: "
                    "the data set is damaged; copy it again."
                )
        try:
            state, action = self.reading.states_and_actions(columns)
            self.layout.check_state(state)
            self.layout.check_quaternions(state)
            self.layout.check_action(action)
            executed = None if self.reading.executed is None else columns[self.reading.executed]
            if executed is not None:
                self.layout.check_action(executed)
        except ValueError as error:
            raise ValueError(f"episode={episode} of {self.root}: {error}") from error
        return EpisodeInfo(len(state), row.instruction, row.task, state, action, executed)

    def demonstrated(self, episode: int) -> Bool[np.ndarray, " N"] | None:
        """Which actions are worth repeating, None for all: those that the column ``is_demonstration`` marks.

        None of an episode whose ``success`` is False. An action of several frames counts when all of them do.
        """
        if not self.row(episode).success:
            return np.zeros(self.length(episode), dtype=bool)
        marks = self._marks(episode)
        if marks is None:
            return None
        marks = np.append(marks[self.reading.ahead :], np.zeros(min(self.reading.ahead, len(marks)), dtype=bool))
        return np.logical_and.reduceat(marks, np.arange(0, len(marks), self.reading.every))

    def frames(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"] | None:
        """RGB images at these steps, exactly; None when the episode lacks this camera.

        Raises ValueError when the pictures are damaged or of another size.
        """
        view = self._view(episode, camera, indices)
        stored = self._stored_frames(episode, view, indices * self.reading.every)
        return None if stored is None else view.source.seen(self._sized(stored, view, episode))

    def depth(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> Float32[np.ndarray, "T H W"] | None:
        """Metres at these steps, 0 where unknown; None when this camera has none.

        Measured depth goes before depth that a teacher added (annotated.py).
        """
        view, numbers = self._view(episode, camera, indices), indices * self.reading.every
        stored = None if view.source.depth_key is None else self._stored_depth(episode, view, numbers)
        if stored is None:
            return self.annotated.read(self.label(episode), view.source, numbers, self.fps)
        return view.source.seen_depth(self._sized(stored, view, episode))

    def _view(self, episode: int, camera: str, indices: np.ndarray) -> View:
        camera_named(self.cameras, camera)
        length = self.length(episode)
        if indices.min() < 0 or indices.max() >= length:
            raise ValueError(f"indices={indices.tolist()}: episode {episode} has frames 0..{length - 1}.")
        return self._views[camera]

    def _sized(self, stored: Shaped[np.ndarray, "T ..."], view: View, episode: int) -> Shaped[np.ndarray, "T ..."]:
        expected = view.camera
        if stored.shape[1:3] != (expected.height, expected.width):
            raise ValueError(
                f"episode={episode} of {self.root}: pictures of camera {expected.name!r} have size "
                f"{stored.shape[1:3]}, it should be {(expected.height, expected.width)} (height, width): make them "
                "equal, or correct what the data set says of them."
            )
        return stored


def _mapped_vectors(robot: RobotConfig, rows: Columns) -> tuple[Float[np.ndarray, "N Ds"], Float[np.ndarray, "M Da"]]:
    state = read_state(robot, rows)[:: robot.frames_per_action]
    return state.astype(np.float32), read_action(robot, rows).astype(np.float32)
