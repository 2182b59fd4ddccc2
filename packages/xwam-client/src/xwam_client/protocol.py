"""The wire between a robot and an xwam server: openpi's framing and arrays, and what xwam adds.

Connection: ``ws://host:8000/``, no compression, header ``Authorization: Api-Key KEY`` where the server asks for one.
Plain HTTP on the same port: ``GET /healthz`` (200 when warm, 503 before), ``GET /metrics`` (Prometheus text).
Frames are binary, one msgpack map each, keys are strings. An array is a map with byte keys, as openpi's:
``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [..]}``; a numpy scalar is
``{b"__npgeneric__": True, b"data": number, b"dtype": ..}``. No objects, no ext types, no pickle; DTYPES and Limits say
the rest. The server speaks first (metadata). A text frame of the server is a refusal, ``rule: message``, for whoever
gave no ``request_id``.

server -> client, ``type: "metadata"``, once, on connect
    protocol "xwam/1"; versions {xwam, torch, python}; checkpoint {name, hash}; statistics_hash; modes [..];
    layout {name, state: [part..], action: [part..]}, part = {name, kind, size, unit, frame, scaling, is_used, sign};
    cameras [{name, width, height, intrinsics, base_from_camera, hand_from_camera, hand, near_m, far_m}..]: the views
        the model needs, in its order, with the calibration the checkpoint knows (None where it does not);
    image_size {height, width}: what the model sees (images of any size are resized); state_width; action_width;
    action_horizon; action_hz; num_frames; frame_hz; world: bool (False: actions only);
    max_prefix: committed actions seen in training (0: none; then a prefix steers the denoising instead);
    observation {key: what it must hold, in words}; limits {message_bytes, array_bytes, queue, per_connection}

client -> server, an observation (one of the two spellings; other keys are refused)
    prompt: str; state: (Ds,) float in the layout's units; images: {camera: (H, W, 3) uint8 RGB}
    or flat, as openpi's examples:  prompt; "observation/state"; "observation/CAMERA" for every camera
  and, all optional:
    request_id: int or str, unique among the pending ones; turns refusals into maps, allows several requests at once
    session_id: str, one robot. A new observation of a session drops the session's unfinished worlds (also across
        connections). Without it the connection is the session
    reset: True; drop all unfinished work of the session first. Alone (no observation) it is answered by
        ``type: "reset"``
    seed: int; this request is then computed in a batch of its own: same observation and seed, same bytes from the same
        server. Without it the seed is 0 and robots share a batch, which changes the last digits
    world: True (needs request_id); world_format: "jpeg" (default), "png", "raw"; voxel_m: point spacing, default 0.005
    cameras: {camera: {intrinsics (3, 3), base_from_camera or hand_from_camera (4, 4), width, height, near_m, far_m,
        hand}}: calibration of these images; goes before the checkpoint's
    prefix: (n, Da) in robot units, n <= action_horizon: what the robot still plays of its last chunk; row 0 plays at
        the moment of this observation. num_committed: int <= n (default n): that many rows will have played when the
        answer takes over; the answer begins with them (real-time chunking)
client -> server, ``{"cancel": request_id}``: drop what is unfinished of that request; answered by
    ``type: "cancelled"`` with ``found: bool``, after a refusal (rule "cancelled") for each dropped part

server -> client: one of these for every observation, and one more when it asked for the world; given ids are repeated
  ``type: "actions"``: actions (Ta, Da) float32 in robot units, row 0 plays at the moment of the observation;
    states (Ts, Ds), row 0 is the observed one (only for requests with a request_id: openpi's broker cuts every array
    of an answer into action steps); action_hz; frame_hz; seed; policy_timing {infer_ms, ..stages};
    server_timing {infer_ms, queue_ms, batch_size, and from the second answer on prev_total_ms}
  ``type: "world"``: states; frame_hz; seed; video {camera: packed}; depth {camera: packed} (metres, 0 unknown) where
    the model gives depth; cameras [..] of the imagined images; with calibrated cameras clouds, one per frame,
    [{points: packed (N, 3) metres in the base frame, colours: packed (N, 3), view: packed (N,)}..]; both timings
  ``type: "refusal"``: part "actions" or "world"; rule: one of RULES; message: name=value, what is allowed, what to
    do. The connection lives on. Refused actions refuse the world with them.
packed: {zlib: bytes, dtype, shape, scale}: integers times ``scale``; see ``pack_array``, ``unpack_array``.
    Video as jpeg or png: {format, frames: [bytes..]}; see ``pack_images``, ``unpack_images``.
"""

from __future__ import annotations

import io
import math
import zlib
from typing import Any, NamedTuple, cast

import msgpack
import numpy as np

PROTOCOL = "xwam/1"
DEFAULT_PORT = 8000
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
RULES = (
    "malformed",  # not msgpack, or not as above
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
    "busy",  # the queue is full: ask again later
    "superseded",  # a newer observation of the session came
    "cancelled",
    "closing",
    "failed",  # the server's fault; its log says more
)


class RefusedError(ValueError):
    """A message that is not accepted, and the rule that says why."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Limits(NamedTuple):
    """What one message may hold."""

    message_bytes: int = 32 << 20  # a longer one ends the connection, with code 1009
    array_bytes: int = 25 << 20
    values: int = 10_000  # keys and values of all maps and lists together
    depth: int = 8
    dimensions: int = 6


REQUEST_LIMITS = Limits()
ANSWER_LIMITS = Limits(message_bytes=512 << 20, array_bytes=256 << 20)


def packb(message: Any) -> bytes:
    """A message as bytes. Raises ValueError for arrays whose dtype is not in DTYPES."""
    return cast("bytes", msgpack.packb(message, default=_pack_numpy))


def unpackb(data: bytes, limits: Limits = REQUEST_LIMITS) -> Any:
    """The inverse of packb, for bytes of a stranger. Arrays are read-only views. Raises RefusedError, nothing else."""
    if len(data) > limits.message_bytes:
        raise RefusedError("too_large", f"message has {len(data)} bytes: at most {limits.message_bytes} are allowed.")
    _scan(data, limits)
    try:
        return msgpack.unpackb(data, object_hook=lambda found: _unpack_map(found, limits))
    except RefusedError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RefusedError("malformed", f"message is not msgpack as described: {error}") from error


def pack_array(array: np.ndarray, scale: float = 1.0) -> dict[str, Any]:
    """Integers, compressed. ``unpack_array`` gives them back, times ``scale`` where that is not 1."""
    data = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
    return {"zlib": data, "dtype": array.dtype.str, "shape": list(array.shape), "scale": float(scale)}


def unpack_array(packed: dict[str, Any], limits: Limits = ANSWER_LIMITS) -> np.ndarray:
    """The inverse of pack_array; float32 when scaled. Never unpacks more than the shape it declares."""
    shape, dtype = _checked_shape(packed["shape"], packed["dtype"], limits)
    size = math.prod(shape) * dtype.itemsize
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed["zlib"], size) if size else b""
    except (zlib.error, TypeError) as error:
        raise RefusedError("malformed", f"packed array: {error}") from error
    if len(data) != size:
        raise RefusedError("malformed", f"packed array has {len(data)} bytes, its shape says {size}.")
    array = np.ndarray(shape, dtype, data)
    return array if packed["scale"] == 1 else array.astype(np.float32) * np.float32(packed["scale"])


def pack_images(images: np.ndarray, image_format: str = "jpeg") -> dict[str, Any]:
    """``T H W 3`` bytes as jpeg (quality 92) or png pictures, or ``raw``: exact, and needs no pillow to read."""
    if image_format == "raw":
        return pack_array(images)
    from PIL import Image

    frames = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, image_format, quality=92, compress_level=1)
        frames.append(buffer.getvalue())
    return {"format": image_format, "frames": frames}


def unpack_images(packed: dict[str, Any], limits: Limits = ANSWER_LIMITS) -> np.ndarray:
    """The inverse of pack_images: ``T H W 3`` uint8."""
    if "frames" not in packed:
        return unpack_array(packed, limits)
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("jpeg and png need pillow: pip install 'xwam-client[images]', or ask for raw.") from error
    formats = [packed["format"].upper()]
    return np.stack([np.asarray(Image.open(io.BytesIO(f), formats=formats)) for f in packed["frames"]])


def decode_world(answer: dict[str, Any]) -> dict[str, Any]:
    """An imagined world: ``video`` and ``depth`` (metres) by camera, ``states``, ``clouds`` (one map per frame)."""
    return {
        "states": answer["states"],
        "video": {name: unpack_images(packed) for name, packed in answer["video"].items()},
        "depth": {name: unpack_array(packed) for name, packed in answer.get("depth", {}).items()},
        "clouds": [{k: unpack_array(packed) for k, packed in cloud.items()} for cloud in answer.get("clouds", [])],
    }


def _pack_numpy(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.str not in DTYPES:
        raise ValueError(f"dtype={value.dtype.str}: must be one of {', '.join(DTYPES)}.")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise ValueError(f"{type(value).__name__} cannot be sent: use numbers, str, bytes, lists, maps and numpy arrays.")


def _unpack_map(found: dict[Any, Any], limits: Limits) -> Any:
    if all(isinstance(key, str) for key in found):
        return found
    if set(found) == {b"__ndarray__", b"data", b"dtype", b"shape"}:
        shape, dtype = _checked_shape(found[b"shape"], found[b"dtype"], limits)
        data = found[b"data"]
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise RefusedError("malformed", f"array of shape {shape}, {dtype.str}: its data has another size.")
        return np.ndarray(shape, dtype, data)
    if set(found) == {b"__npgeneric__", b"data", b"dtype"}:
        _, dtype = _checked_shape([], found[b"dtype"], limits)
        if not isinstance(found[b"data"], (bool, int, float)):
            raise RefusedError("malformed", "numpy scalar: its data must be a number.")
        return dtype.type(found[b"data"])
    raise RefusedError("malformed", "map with byte keys: those are for numpy arrays and scalars only.")


def _checked_shape(shape: Any, dtype: Any, limits: Limits) -> tuple[tuple[int, ...], np.dtype]:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise RefusedError("wrong_type", f"dtype={str(dtype)[:20]!r}: must be one of {', '.join(DTYPES)}.")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise RefusedError("wrong_shape", "array shape: must be a list of sizes, none negative.")
    num_bytes = math.prod(max(1, size) for size in shape) * np.dtype(dtype).itemsize
    if len(shape) > limits.dimensions or num_bytes > limits.array_bytes:
        allowed = f"at most {limits.dimensions} dimensions and {limits.array_bytes} bytes"
        raise RefusedError("too_large", f"array of {len(shape)} dimensions, {num_bytes} bytes: {allowed}.")
    return tuple(shape), np.dtype(dtype)


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
