"""Read HDF5 files of ALOHA, robomimic, LIBERO, RoboCasa, RoboTwin and their like, as a robot.json explains them.

Keys are paths inside an episode (``observations/qpos``, ``obs/ee_pos``). Pictures are numbers (N x H x W x 3 bytes) or
picture files (JPEG, PNG), padded or not; depth is numbers, or 16-bit PNGs, in metres or millimetres. Files are opened
for each reading, so that many processes can read at once.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from xwam.data import hdf5_index as index
from xwam.data.folders import files_below
from xwam.data.hdf5_index import GroupRow
from xwam.data.hdf5_words import where
from xwam.data.lerobot_format import DEMONSTRATED
from xwam.data.recorded import Reading, RecordedEpisodes, View, reading_of
from xwam.data.videos import read_all, read_depth_picture
from xwam.files import Recent, fingerprint
from xwam.robot.columns import check_columns
from xwam.robot.parts import CameraSource
from xwam.robot.robot_json import RobotConfig

MILLIMETRES = 1000  # in a metre


class Hdf5Episodes(RecordedEpisodes[GroupRow]):
    """HDF5 files as ``Episodes``; see open_hdf5."""

    def __init__(self, root: Path, fps: float, reading: Reading, rows: list[GroupRow]) -> None:
        super().__init__(root, fps, reading, rows)
        self._folder = root if root.is_dir() else root.parent
        self._recent = Recent[dict[str, dict[str, np.ndarray]]](most=64)
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of layout, words, all columns, three pictures of every film, and of every file's size and end."""
        if self._fingerprint is None:
            content = hashlib.sha256()
            for row in self.rows:
                content.update(f"{row.group} {row.length} {row.instruction} {row.success}".encode())
                with index.opened_episode(row) as group:
                    for key in (*self.reading.keys, DEMONSTRATED):
                        content.update(index.some_bytes(group, key, [slice(row.length)]))
                    for key in self.picture_keys():
                        few = [slice(place, place + 1) for place in (0, row.length // 2, row.length - 1)]
                        content.update(index.some_bytes(group, key, few))
            paths = [*{row.data for row in self.rows}, *files_below(self.annotated.folder, {".json"})]
            facts = (self.layout, self.action_hz, *self.reading.facts, content.hexdigest())
            self._fingerprint = fingerprint(self._folder, paths, *facts)
        return self._fingerprint

    def label(self, episode: int) -> str:
        """The episode's file and group: they stay when other files come and go."""
        row = self.row(episode)
        return f"{row.data.relative_to(self._folder).with_suffix('')}{row.group.rstrip('/')}"

    def columns(self, episode: int) -> dict[str, Float32[np.ndarray, "_N _n"]]:
        """The columns as they are stored, frame by frame."""
        row = self.row(episode)
        known = self._recent.get(row.data, lambda _: {})
        if row.group not in known:
            with index.opened_episode(row) as group:
                known[row.group] = index.read_columns(group, self.reading.keys, row.length)
        return known[row.group]

    def picture_keys(self) -> dict[str, bool]:
        """The keys of all pictures and depth, and whether every episode must have them."""
        keys: dict[str, bool] = {}
        for source in (view.source for view in self.reading.views):
            for key in (source.key, source.depth_key):
                keys |= {} if key is None else {key: not source.may_be_missing}
        return keys

    def count(self, episode: int, key: str) -> int:
        """How many rows (pictures, say) of a key an episode holds; 0 without it."""
        with index.opened_episode(self.row(episode)) as group:
            found = index.find_column(group, key)
            return 0 if found is None else len(found)

    def _holds(self, episode: int, key: str) -> bool:
        return self.count(episode, key) > 0

    def _stored_frames(
        self, episode: int, view: View, numbers: Int[np.ndarray, " T"]
    ) -> UInt8[np.ndarray, "T H W 3"] | None:
        rows = self._rows(episode, view.source, view.source.key, numbers)
        return None if rows is None else _pictures(rows, self._place(episode, view.source.key))

    def _stored_depth(
        self, episode: int, view: View, numbers: Int[np.ndarray, " T"]
    ) -> Float32[np.ndarray, "T H W"] | None:
        assert view.source.depth_key is not None
        rows = self._rows(episode, view.source, view.source.depth_key, numbers)
        return None if rows is None else _metres(rows, view.source, self._place(episode, view.source.depth_key))

    def _place(self, episode: int, key: str) -> str:
        row = self.row(episode)
        return f"key={key!r} in {row.data.name} group={row.group!r}"

    def _rows(self, episode: int, source: CameraSource, key: str, numbers: Int[np.ndarray, " T"]) -> np.ndarray | None:
        """Rows by number, in any order (HDF5 wants them rising and once); None when the episode may lack them."""
        row = self.row(episode)
        once, back = np.unique(numbers, return_inverse=True)
        with index.opened_episode(row) as group:
            if source.may_be_missing and index.find_column(group, key) is None:
                return None
            column = index.column_of(group, key)
            if len(column) <= once[-1]:
                raise ValueError(
                    f"{self._place(episode, key)} has {len(column)} rows, the episode {row.length}: copy it again, or "
                    "leave the episode out."
                )
            return np.asarray(column[once])[back]

    def _marks(self, episode: int) -> Bool[np.ndarray, " _N"] | None:
        row = self.row(episode)
        with index.opened_episode(row) as group:
            marks = index.find_column(group, DEMONSTRATED)
            if marks is None:
                return None
            if marks.size != len(marks) or not row.length <= len(marks) <= row.length + index.MOST_SPARE:
                raise ValueError(
                    f"{self._place(episode, DEMONSTRATED)} has shape {marks.shape}: one per row is needed."
                )
            return np.asarray(marks[: row.length]).reshape(-1) > 0


def open_hdf5(root: Path, *, robot: RobotConfig) -> Hdf5Episodes:
    """Open an HDF5 file, or a folder of them, as a robot.json says.

    Raises FileNotFoundError or ValueError when something is missing or does not fit, ImportError without h5py.
    """
    paths = index.hdf5_files(root)
    if not paths:
        raise FileNotFoundError(f"root={root}: no HDF5 files ({', '.join(index.SUFFIXES)}) there; check the path.")
    with index.opened(paths[0]) as file:
        check_columns(robot, index.widths_in(index.groups_of(file)[0], robot.keys))
    rows = index.read_rows(paths, robot.keys, robot.fps, robot.instruction)
    sizes = {source.name: _size(rows, source) for source in robot.cameras}
    return Hdf5Episodes(root, robot.fps, reading_of(robot, sizes), rows)


def _size(rows: Sequence[GroupRow], source: CameraSource) -> tuple[int, int]:
    """Height and width of a camera's pictures, by the first one that is there; its depth must be as large."""
    for row in rows:
        with index.opened_episode(row) as group:
            if source.may_be_missing and index.find_column(group, source.key) is None:
                continue
            here = where(group)
            first = _pictures(np.asarray(index.column_of(group, source.key)[:1]), f"key={source.key!r} in {here}")
            size = first.shape[1], first.shape[2]
            if source.depth_key is not None and not (
                source.may_be_missing and index.find_column(group, source.depth_key) is None
            ):
                here = f"depth_key={source.depth_key!r} in {here}"
                depth = _metres(np.asarray(index.column_of(group, source.depth_key)[:1]), source, here)
                if depth.shape[1:] != size:
                    raise ValueError(f"{here} has size {depth.shape[1:]}, its pictures {size}: they must be equal.")
            return size
    raise ValueError(f"camera {source.name!r} key={source.key!r}: no episode has it; leave it out.")


def _pictures(stored: np.ndarray, where: str) -> UInt8[np.ndarray, "T H W 3"]:
    """Pictures from numbers, or from picture files (bytes, or numbers that are their bytes)."""
    if stored.ndim == 4 and stored.shape[-1] == 3 and stored.dtype == np.uint8:
        return stored
    if _is_files(stored):
        return read_all(map(index.bytes_of, stored), where)
    raise ValueError(
        f"{where} has shape {stored.shape}, dtype={stored.dtype}: must be pictures, N x H x W x 3 bytes, or picture "
        "files (JPEG, PNG)."
    )


def _is_files(stored: np.ndarray) -> bool:
    """Whether rows are picture files: bytes, or a row of numbers that are their bytes (perhaps padded)."""
    return stored.dtype.kind in "SO" or (stored.dtype == np.uint8 and stored.ndim == 2)


def _metres(values: np.ndarray, source: CameraSource, where: str) -> Float32[np.ndarray, "T H W"]:
    """Depth images in metres, 0 where unknown."""
    if _is_files(values):
        values = read_all(map(index.bytes_of, values), where, read_depth_picture)
    values = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise ValueError(f"{where} has shape {values.shape}, dtype={values.dtype}: must be N x H x W numbers.")
    if source.depth_unit == "m" and values.dtype.kind != "f":
        raise ValueError(f"{where} has whole numbers and depth_unit='m': say depth_unit='mm' if they are millimetres.")
    metres = values / (MILLIMETRES if source.depth_unit == "mm" else 1)
    return np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(np.float32)
