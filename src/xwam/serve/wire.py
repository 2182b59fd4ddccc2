"""The server's end of the wire (docs/protocol.md): bytes of strangers, read with care, and worlds, packed small.

Arrays are written and read by ``xwam_client.protocol``; what only a server needs stands here.
"""

import hmac
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from xwam_client.protocol import RefusedError, unpackb

from xwam.images import encoded

RULES = (
    "malformed",  # not msgpack, or not as described
    "too_large",  # a limit on bytes, values or nesting
    "unknown_key",
    "missing_key",
    "wrong_type",
    "wrong_shape",
    "not_finite",
    "unknown_camera",
    "out_of_range",
    "absurd_state",  # far outside what the checkpoint has ever seen
    "not_offered",  # this checkpoint or server cannot
    "busy",  # too much is waiting: ask again later
    "superseded",  # a newer observation of the session came
    "cancelled",
    "closing",
    "failed",  # the server's fault; its log says more
)


class Limits(NamedTuple):
    """What one message may hold."""

    message_bytes: int = 32 << 20  # a longer one ends the connection, with code 1009
    array_bytes: int = 25 << 20
    values: int = 10_000  # keys and values of all maps and lists together
    depth: int = 8


LIMITS = Limits()


def read_message(data: bytes | str, limits: Limits = LIMITS) -> dict[str, Any]:
    """A stranger's frame as a map. Raises RefusedError, nothing else."""
    if isinstance(data, str):
        raise RefusedError("malformed", "text frame: send binary frames (msgpack).")
    if len(data) > limits.message_bytes:
        raise RefusedError("too_large", f"message has {len(data)} bytes: at most {limits.message_bytes} are allowed.")
    _scan(data, limits)
    message = unpackb(data, limits.array_bytes)
    if not isinstance(message, dict):
        raise RefusedError("malformed", f"message is a {type(message).__name__}: must be a map.")
    return message


def pack_array(array: Shaped[np.ndarray, "..."], scale: float = 1.0) -> dict[str, Any]:
    """Integers, compressed. ``unpack_array`` gives them back, times ``scale`` where that is not 1."""
    data = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
    return {"zlib": data, "dtype": array.dtype.str, "shape": list(array.shape), "scale": float(scale)}


def pack_images(images: UInt8[np.ndarray, "T H W 3"], image_format: str = "jpeg") -> dict[str, Any]:
    """Jpeg (quality 92) or png pictures, or ``raw``: exact, and needs no pillow to read. See ``unpack_images``."""
    if image_format == "raw":
        return pack_array(images)
    missing = "jpeg and png need Pillow: pip install 'xwam[serve]'"
    frames = [encoded(image, image_format, missing=missing, quality=92, compress_level=1) for image in images]
    return {"format": image_format, "frames": frames}


_PLAIN = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_PLAIN.update({0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8})
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes, str: length of their length
_NESTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # list, map: length of their length, values each


def _scan(data: bytes, limits: Limits) -> None:
    """Read the headers alone, before anything is built: a small message must not become a large object."""
    position, num_values, waiting = 0, 0, [1]
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        waiting[-1] -= 1
        num_values += 1
        if num_values > limits.values or len(waiting) > limits.depth + 1:
            allowed = f"at most {limits.values} values, nested {limits.depth} deep"
            raise RefusedError("too_large", f"message holds too much: {allowed}.")
        if position >= len(data):
            raise RefusedError("malformed", f"message ends early, after {len(data)} bytes.")
        kind, children = data[position], 0
        position += 1
        if 0x80 <= kind <= 0x9F:  # small map or list
            children = (kind & 15) * (2 if kind < 0x90 else 1)
        elif 0xA0 <= kind <= 0xBF:  # small str
            position += kind & 31
        elif kind in _PLAIN:
            position += _PLAIN[kind]
        elif kind in _SIZED:
            width = _SIZED[kind]
            position += width + int.from_bytes(data[position : position + width], "big")
        elif kind in _NESTED:
            width, each = _NESTED[kind]
            children = each * int.from_bytes(data[position : position + width], "big")
            position += width
        elif 0x80 <= kind < 0xE0:
            raise RefusedError("malformed", f"byte {kind:#x}: ext types are not accepted.")
        if position > len(data):
            raise RefusedError("malformed", f"message ends early, after {len(data)} bytes.")
        if children:
            waiting.append(children)
    if position != len(data):
        raise RefusedError("malformed", f"{len(data) - position} bytes stand behind the message.")


def read_key(path: Path) -> str:
    """The key in a file, without the line's end. Raises ValueError for an empty one."""
    key = path.read_text().strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(f"api_key_file={path}: must hold one line of printable ASCII characters.")
    return key


def knows_key(given: Sequence[str], key: str) -> bool:
    """True when the one header Authorization holds the key; takes equally long wherever they differ."""
    expected = f"Api-Key {key}"
    return len(given) == 1 and hmac.compare_digest(given[0].encode(errors="surrogateescape"), expected.encode())
