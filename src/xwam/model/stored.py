"""Where tensors lie in a file: names, shapes and places are read, the numbers only when asked for, piece by piece.

Knows safetensors and torch's own (zip) files. So a file of any size can be looked at and copied in little memory.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

PIECE_BYTES = 16 * 2**20
SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Stored(NamedTuple):
    """One tensor in a file: ``offset`` bytes from its beginning; ``stride`` in elements."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[bytes]:
        """Its numbers in order, a few megabytes at a time (a tensor stored with odd strides: all at once)."""
        if self.stride != row_major(self.shape):
            yield self.read().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.num_bytes
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise ValueError(f"path={self.path}: the file ends inside a tensor; copy it again.")
                left -= len(piece)
                yield piece

    def read(self) -> Shaped[Tensor, "*shape"]:
        """The tensor itself, on the CPU."""
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        storage = torch.empty(last + 1, dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if file.readinto(storage.view(torch.uint8).numpy().data) != storage.nbytes:
                raise ValueError(f"path={self.path}: the file ends inside a tensor; copy it again.")
        return storage.as_strided(self.shape, self.stride)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def safetensors_contents(path: Path) -> dict[str, Stored]:
    """All tensors of a safetensors file. Raises FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; a safetensors file is expected there.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"path={path}: this is no whole safetensors file; copy it again.")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] not in SAFETENSORS_TYPES:
            raise ValueError(f"path={path} {name}: dtype={entry['dtype']}: allowed are {', '.join(SAFETENSORS_TYPES)}.")
        start, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        found[name] = Stored(path, 8 + length + start, SAFETENSORS_TYPES[entry["dtype"]], shape, row_major(shape))
        if end - start != found[name].num_bytes or 8 + length + end > path.stat().st_size:
            raise ValueError(f"path={path}: the file ends before {name}; copy it again.")
    return found


def torch_contents(path: Path, key: str | None = None) -> tuple[dict[str, Stored], list[str]]:
    """All tensors of a file of ``torch.save`` (of its entry ``key``), and the names of its other entries.

    Nothing in the file is executed (``weights_only``), and no numbers are read. It is not memory-mapped either: Linux
    refuses to map a file larger than the machine's memory the way torch does it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; a file of torch.save is expected there.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"path={path}: not a zip file of torch.save (torch >= 1.6); copy it again or save it anew.")
    with FakeTensorMode():  # tensors without numbers that know where in the file theirs are
        whole: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if key is not None and key not in whole:
        raise ValueError(f"path={path} has no entry {key!r}; it has {', '.join(map(str, whole))}.")
    entries = whole if key is None else whole[key]
    others = [] if key is None else [str(name) for name in whole if name != key]
    found = {}
    for name, value in entries.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"path={path}: entry {name!r} is no tensor; a state_dict is expected there.")
        start = value.untyped_storage()._checkpoint_offset
        if start is None:
            raise ValueError(f"path={path}: entry {name!r} was saved without numbers (on the meta device).")
        offset = start + int(value.storage_offset()) * value.itemsize
        found[name] = Stored(path, offset, value.dtype, tuple(value.shape), tuple(value.stride()))
    return found, others
