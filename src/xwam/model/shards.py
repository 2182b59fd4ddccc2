"""Weights in several safetensors files: written tensor by tensor, in the memory of one piece of one tensor.

Each file appears under its own name only when it is whole, so an interrupted writing is continued by repeating it.
``model.safetensors`` alone, or ``model-00001-of-00003.safetensors``, … and ``model.safetensors.index.json``.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from xwam.files import write_text
from xwam.model.stored import SAFETENSORS_TYPES, Stored

MAX_SHARD_BYTES = 5 * 10**9
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_NAMES_OF_TYPES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}


class Drawn(NamedTuple):
    """A tensor that is made when its turn comes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Size of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[bytes]:
        """Its numbers in order."""
        tensor = self.make()
        assert (tensor.dtype, tuple(tensor.shape)) == (self.dtype, self.shape)
        yield tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


Source = Stored | Drawn


class Shard(NamedTuple):
    """One file to write: its path, its header and its tensors in order."""

    path: Path
    header: bytes
    tensors: Mapping[str, Source]

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def is_written(self) -> bool:
        """True if the file is there, whole and with this header."""
        if not self.path.is_file() or self.path.stat().st_size != self.num_bytes:
            return False
        with self.path.open("rb") as file:
            return file.read(len(self.header)) == self.header

    @property
    def part(self) -> Path:
        """Its name while it is being written."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def num_begun(self) -> int:
        """Bytes that a killed conversion left of it, which are written over."""
        return min(self.part.stat().st_size, self.num_bytes) if self.part.is_file() else 0

    def write(self, wrote: Callable[[int], object]) -> None:
        """Write the file under a ``.part`` name, then rename it; ``wrote`` hears of every piece's size.

        Always the same name: what a killed conversion left is written over, gigabytes do not pile up.
        """
        with self.part.open("wb") as file:
            file.write(self.header)
            for tensor in self.tensors.values():
                for piece in tensor.pieces():
                    file.write(piece)
                    wrote(len(piece))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.part, self.path)


def plan_shards(folder: Path, tensors: Mapping[str, Source], max_bytes: int = MAX_SHARD_BYTES) -> list[Shard]:
    """Cut named tensors, in their order, into files of at most ``max_bytes`` (or one larger tensor)."""
    groups: list[dict[str, Source]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        # a header takes at most a few hundred bytes per tensor
        size += tensor.num_bytes + 512
        if groups[-1] and size > max_bytes:
            groups.append({})
            size = tensor.num_bytes + 512
        groups[-1][name] = tensor
    count = len(groups)
    names = [ONE_FILE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    return [Shard(folder / name, _header(group), group) for name, group in zip(names, groups, strict=True)]


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Which tensor is in which file; nothing for a single file."""
    if len(shards) == 1:
        return
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.tensors.values())
    where = {name: shard.path.name for shard in shards for name in shard.tensors}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")


def weight_files(path: Path) -> list[Path]:
    """``path`` (``…/model.safetensors``), or the files that the index beside it names. Raises FileNotFoundError."""
    if path.is_file():
        return [path]
    index = path.with_name(f"{path.name}.index.json")
    if not index.is_file():
        is_unfinished = (path.parent / "training").is_dir()
        advice = "; make it whole first: `xwam convert run` (a run with shards or LoRA)" if is_unfinished else ""
        raise FileNotFoundError(f"path={path}: no such file, nor {index.name}; weights are expected there{advice}.")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"path={path.parent / name}: no such file; {index.name} names it: copy it again.")
    return [path.parent / name for name in names]


def _header(tensors: Mapping[str, Source]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.num_bytes
        kind = _NAMES_OF_TYPES[tensor.dtype]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
