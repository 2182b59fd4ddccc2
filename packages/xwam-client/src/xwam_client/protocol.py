"""Messages as bytes: msgpack maps with numpy arrays, exactly as openpi's; docs/protocol.md describes every message."""

from __future__ import annotations

import io
import math
import zlib
from typing import Any, cast

import msgpack
import numpy as np

PROTOCOL = "xwam/1"
DEFAULT_PORT = 8000
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
MAX_DIMENSIONS = 6
MAX_ARRAY_BYTES = 256 << 20
TRY_AGAIN = ("busy", "superseded", "cancelled", "closing")  # rules of refusals that pass
PAUSE_S = 0.1  # before asking again


class RefusedError(ValueError):
    """A message that is not accepted, and the rule that says why."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> Any:
        return type(self), (self.rule, str(self))  # as it is in another process, too


def may_pass(error: BaseException) -> bool:
    """True where asking again may help: a lost connection, or a server that cannot just now."""
    return isinstance(error, ConnectionError) or (isinstance(error, RefusedError) and error.rule in TRY_AGAIN)


def packb(message: Any) -> bytes:
    """A message as bytes. Raises ValueError for arrays whose dtype is not in DTYPES."""
    return cast("bytes", msgpack.packb(message, default=_pack_numpy))


def unpackb(data: bytes, array_bytes: int = MAX_ARRAY_BYTES) -> Any:
    """The inverse of packb. Arrays are read-only views. Raises RefusedError, nothing else."""
    try:
        return msgpack.unpackb(data, object_hook=lambda found: _unpack_map(found, array_bytes))
    except RefusedError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RefusedError("malformed", f"message is not msgpack as described: {error}") from error


def unpack_array(packed: dict[str, Any]) -> np.ndarray:
    """A compressed array; float32 when it is scaled. Never unpacks more than the shape it declares."""
    shape, dtype = _checked_shape(packed["shape"], packed["dtype"], MAX_ARRAY_BYTES)
    size = math.prod(shape) * dtype.itemsize
    data = zlib.decompressobj().decompress(packed["zlib"], size) if size else b""
    if len(data) != size:
        raise RefusedError("malformed", f"packed array has {len(data)} bytes, its shape says {size}.")
    array = np.ndarray(shape, dtype, data)
    return array if packed["scale"] == 1 else array.astype(np.float32) * np.float32(packed["scale"])


def decode_world(answer: dict[str, Any]) -> dict[str, Any]:
    """An imagined world: ``video`` and ``depth`` (metres) by camera, ``states``, ``clouds`` (one map per frame)."""
    return {
        "states": answer["states"],
        "video": {name: unpack_images(packed) for name, packed in answer["video"].items()},
        "depth": {name: unpack_array(packed) for name, packed in answer.get("depth", {}).items()},
        "clouds": [{k: unpack_array(packed) for k, packed in cloud.items()} for cloud in answer.get("clouds", [])],
    }


def unpack_images(packed: dict[str, Any]) -> np.ndarray:
    """A video ``T H W 3``, uint8. Needs pillow, but for format ``raw``."""
    if "frames" not in packed:
        return unpack_array(packed)
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("jpeg and png need pillow: pip install 'xwam-client[images]', or ask for raw.") from error
    pictures = [Image.open(io.BytesIO(frame), formats=[packed["format"].upper()]) for frame in packed["frames"]]
    return np.stack([np.asarray(picture) for picture in pictures])


def _pack_numpy(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise ValueError(f"{type(value).__name__} cannot be sent: use numbers, str, bytes, lists, maps, numpy arrays.")
    if value.dtype.str not in DTYPES:
        raise ValueError(f"dtype={value.dtype.str}: must be one of {', '.join(DTYPES)}.")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _unpack_map(found: dict[Any, Any], array_bytes: int) -> Any:
    if all(isinstance(key, str) for key in found):
        return found
    if set(found) == {b"__npgeneric__", b"data", b"dtype"} and isinstance(found[b"data"], (bool, int, float)):
        return _checked_shape([], found[b"dtype"], array_bytes)[1].type(found[b"data"])
    if set(found) != {b"__ndarray__", b"data", b"dtype", b"shape"}:
        raise RefusedError("malformed", "map with byte keys: those are for numpy arrays and scalars (numbers) only.")
    shape, dtype = _checked_shape(found[b"shape"], found[b"dtype"], array_bytes)
    data = found[b"data"]
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        raise RefusedError("malformed", f"array of shape {shape}, {dtype.str}: its data has another size.")
    return np.ndarray(shape, dtype, data)


def _checked_shape(shape: Any, dtype: Any, array_bytes: int) -> tuple[tuple[int, ...], np.dtype]:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise RefusedError("wrong_type", f"dtype={str(dtype)[:20]!r}: must be one of {', '.join(DTYPES)}.")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise RefusedError("wrong_shape", "array shape: must be a list of sizes, none negative.")
    num_bytes = math.prod(max(1, size) for size in shape) * np.dtype(dtype).itemsize
    if len(shape) > MAX_DIMENSIONS or num_bytes > array_bytes:
        allowed = f"at most {MAX_DIMENSIONS} dimensions and {array_bytes} bytes"
        raise RefusedError("too_large", f"array of {len(shape)} dimensions, {num_bytes} bytes: {allowed}.")
    return tuple(shape), np.dtype(dtype)
