"""Depth that a teacher added to a data set: videos beside it, and who said so.

::

    DIR/depth/<camera>/episode-000012.mp4     12-bit codes of every frame (depth.py); <file>-<group>.mp4 for HDF5
    DIR/depth/<camera>/provenance.json        teacher, coding, of which pictures; how each episode's scale was found

The data set's own files stay as they are. An episode counts when provenance.json names it; that comes last.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from xwam.data.depth import DepthCoding, codes_to_depth, depth_to_codes
from xwam.data.videos import read_codes, write_codes
from xwam.files import whole_file, write_text
from xwam.robot.parts import CameraSource
from xwam.strict_json import to_json

ANNOTATIONS = "depth"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How an episode's estimates became metres."""

    reference: str  # what they were fitted to; "none": the teacher's own metres
    scale: float = 1.0
    shift: float = 0.0  # 1/m
    abs_rel: float | None = None  # error left on the fitted pixels
    num_pixels: int = 0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a camera's depth comes from."""

    teacher: str
    kind: str
    weights: str  # hash of the teacher's files
    near_m: float
    far_m: float
    coding: tuple[float, float, float]  # min, max, shift (metres), logarithmic
    key: str  # the pictures it was guessed from
    stored: str  # how they were turned then
    channel_order: str
    episodes: dict[str, Scale] = field(default_factory=dict)


def pictures_of(source: CameraSource) -> dict[str, Any]:
    """What a robot.json says of the pictures that depth is guessed from, as Provenance keeps it."""
    return {"key": source.key, "stored": source.orientation, "channel_order": source.channel_order}


def other_pictures(known: Provenance, source: CameraSource) -> str:
    """In what the pictures are no longer those that depth was guessed from, in words; empty when they are the same."""
    changed = []
    for name, now in pictures_of(source).items():
        if (then := vars(known)[name]) != now:
            changed.append(f"{name}={then!r}, now {now!r}")
    return "; ".join(changed)


class AnnotatedDepth:
    """Reads and writes the depth beside one data set. ``episode``: a name that stays, LeRobot's number say."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ANNOTATIONS
        self._known: dict[str, Provenance | None] = {}

    def provenance(self, camera: str) -> Provenance | None:
        """Who guessed this camera's depth; None when nobody did."""
        if camera not in self._known:
            path = self._path(camera)
            self._known[camera] = _load(path) if path.is_file() else None
        return self._known[camera]

    def has(self, episode: str, camera: str) -> bool:
        """True when this episode's depth is whole."""
        known = self.provenance(camera)
        return known is not None and episode in known.episodes and self._video(episode, camera).is_file()

    def read(
        self, episode: str, source: CameraSource, indices: Int[np.ndarray, " T"], fps: float
    ) -> Float32[np.ndarray, "T H W"] | None:
        """Metres of these frames, 0 where unknown; None when there are none.

        Raises ValueError when they were guessed from other pictures than ``source`` now names, or turned otherwise.
        """
        camera = source.name
        known = self.provenance(camera)
        if known is None or episode not in known.episodes:
            return None
        if changed := other_pictures(known, source):
            raise ValueError(
                f"camera={camera!r}: its depth was guessed from other pictures ({changed} in robot.json): name the "
                "camera otherwise, or guess it again: xwam annotate depth … --rebuild."
            )
        return codes_to_depth(
            read_codes(self._video(episode, camera), indices, float(round(fps))), DepthCoding(*known.coding)
        )

    def write(
        self, episode: str, camera: str, depth_m: Float32[np.ndarray, "N H W"], fps: int, origin: Provenance, how: Scale
    ) -> None:
        """Add an episode's depth; whole or not at all."""
        with whole_file(self._video(episode, camera)) as path:
            write_codes(path, depth_to_codes(depth_m, DepthCoding(*origin.coding)), fps)
        known = self.provenance(camera) or origin
        known = replace(known, episodes=known.episodes | {episode: how})
        write_text(self._path(camera), to_json(known))
        self._known[camera] = known

    def forget(self, camera: str) -> None:
        """Make this camera's depth not count any more; its videos are written over."""
        self._path(camera).unlink(missing_ok=True)
        self._known[camera] = None

    def _path(self, camera: str) -> Path:
        return self.folder / camera / "provenance.json"

    def _video(self, episode: str, camera: str) -> Path:
        """A file of its own: no other episode's name gives the same."""
        name = episode.replace("%", "%25").replace("-", "%2D").replace("/", "-")
        return self.folder / camera / f"{_numbered(episode) or name}.mp4"


def _numbered(episode: str) -> str | None:
    return f"episode-{int(episode):06d}" if episode.isdecimal() and str(int(episode)) == episode else None


def _load(path: Path) -> Provenance:
    """Strictly read; episodes are named as ``label`` names them."""
    stored = json.loads(path.read_text())
    episodes = {name: Scale(**entry) for name, entry in stored.pop("episodes").items()}
    stored["coding"] = tuple(stored["coding"])
    return Provenance(**stored, episodes=episodes)
