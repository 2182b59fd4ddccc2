"""Cameras as JSON: calibration travels with data sets and checkpoints."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xwam.files import write_text
from xwam.records import Camera
from xwam.strict_json import suggest


def camera_to_dict(camera: Camera) -> dict[str, Any]:
    """A camera in JSON's own types."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(camera).items()}


def camera_from_dict(row: dict[str, Any]) -> Camera:
    """The inverse of camera_to_dict. Raises ValueError on unknown keys."""
    known = [field.name for field in dataclasses.fields(Camera)]
    for key in row:
        if key not in known:
            raise ValueError(f"camera has the unknown key {key!r}: {suggest(key, known)}")
    fields: dict[str, Any] = {k: np.array(v, dtype=np.float64) if isinstance(v, list) else v for k, v in row.items()}
    return Camera(**fields)


def save_cameras(path: Path, cameras: Iterable[Camera]) -> None:
    """Write cameras as one JSON list."""
    write_text(path, json.dumps([camera_to_dict(camera) for camera in cameras], indent=1) + "\n")


def load_cameras(path: Path) -> tuple[Camera, ...]:
    """The inverse of save_cameras. Raises FileNotFoundError when the file is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; cameras in JSON are expected there.")
    return tuple(camera_from_dict(row) for row in json.loads(path.read_text()))
