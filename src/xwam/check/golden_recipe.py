"""Golden numbers: weights and inputs that anybody can draw again from a name, with numpy alone.

A golden file holds what the published X-WAM code answered for such weights and inputs.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file


def generator(key: str) -> np.random.Generator:
    """The random generator that belongs to a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))


def weight(key: str, shape: Sequence[int], *, scale: float, salt: str = "") -> Float[np.ndarray, "*shape"]:
    """The value of one weight: normal(0, scale), around 1 if it scales a norm (1-D ``.weight``, or ``.gamma``)."""
    value = normal(key, shape, salt) * np.float32(scale)
    is_norm = key.endswith(".gamma") or (key.endswith(".weight") and len(shape) == 1)
    return (np.float32(1) + value if is_norm else value).astype(np.float32)


def weights(shapes: Mapping[str, Sequence[int]], *, scale: float, salt: str = "") -> dict[str, np.ndarray]:
    """All weights of a model, by name."""
    return {key: weight(key, shape, scale=scale, salt=salt) for key, shape in sorted(shapes.items())}


def normal(key: str, shape: Sequence[int], salt: str = "") -> Float[np.ndarray, "*shape"]:
    """Standard normal numbers, float32."""
    return generator(salt + key).standard_normal(size=tuple(shape), dtype=np.float32)


def uniform(key: str, shape: Sequence[int], salt: str = "") -> Float[np.ndarray, "*shape"]:
    """Numbers in [0, 1), float64."""
    return generator(salt + key).random(size=tuple(shape))


def relative_error(found: Float[np.ndarray, "*shape"], golden: Float[np.ndarray, "*shape"]) -> float:
    """The largest difference, as a share of the golden tensor's largest value."""
    if found.shape != golden.shape:
        raise ValueError(f"shape={found.shape}: the golden tensor has {golden.shape}.")
    difference = np.abs(found.astype(np.float64) - golden.astype(np.float64))
    return float(difference.max() / np.maximum(np.abs(golden).max(), np.finfo(np.float32).tiny))


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Numbers and settings of a golden file."""
    return json.loads(_existing(folder / f"{name}.json").read_text())


def read_tensors(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Tensors of a golden file."""
    return load_file(_existing(folder / f"{name}.safetensors"))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; golden numbers have NAME.json and NAME.safetensors.")
    return path
