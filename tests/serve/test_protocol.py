"""The wire's own rules: openpi's bytes, round trips, and refusals before anything large is built."""

import struct
import tracemalloc

import msgpack
import numpy as np
import pytest
from xwam_client.protocol import DTYPES, RefusedError, packb, unpack_array, unpack_images, unpackb

from xwam.serve.wire import Limits, pack_array, pack_images, read_message


def test_arrays_are_openpis_bytes():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    by_hand = {"a": {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": [2, 3]}}
    assert packb({"a": array}) == msgpack.packb(by_hand)
    assert packb({"a": np.uint8(3)}) == msgpack.packb({"a": {b"__npgeneric__": True, b"data": 3, b"dtype": "|u1"}})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (2, 3, 1)])
def test_round_trip(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    back = unpackb(packb({"x": array}))["x"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


def test_plain_values_and_scalars_come_back():
    message = {"a": 1, "b": -2.5, "c": "words", "d": [True, None, {"e": b"bytes"}], "f": np.int16(-7)}
    back = unpackb(packb(message))
    assert back == message
    assert back["f"].dtype == np.int16


@pytest.mark.parametrize("array", [np.array([object()]), np.zeros(2, complex), np.array(["a"]), np.zeros(2, ">f4")])
def test_other_dtypes_are_not_sent(array):
    with pytest.raises(ValueError, match="dtype="):
        packb({"x": array})


def array_map(**changes):
    fields = {"__ndarray__": True, "data": b"\0" * 8, "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({"x": {key.encode(): value for key, value in fields.items()}})


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("malformed", b""),
        ("malformed", msgpack.packb({"a": 1})[:-1]),
        ("malformed", msgpack.packb({"a": 1}) + b"\0"),
        ("malformed", msgpack.packb({"a": msgpack.ExtType(1, b"x")})),
        ("malformed", msgpack.packb({"a": msgpack.Timestamp(1)})),
        ("malformed", msgpack.packb({1: 2})),
        ("malformed", b"\x81\xa1\xff\x01"),  # not UTF-8
        ("malformed", msgpack.packb({b"key": 1})),
        ("malformed", b"\xdf\xff\xff\xff\xff"),  # says it has 4 billion keys
        ("malformed", b"\xc6\xff\xff\xff\xff"),  # says it has 4 GB
        ("too_large", b"\x91" * 50 + b"\xc0"),  # nested too deep
        ("too_large", msgpack.packb([0] * 20_000)),
        ("too_large", array_map(shape=[1 << 39, 0])),
        ("too_large", array_map(shape=[1] * 7, data=b"\0" * 4)),
        ("wrong_shape", array_map(shape=[-2])),
        ("wrong_shape", array_map(shape=[True, 2])),
        ("wrong_shape", array_map(shape=[1 << 62, 1 << 62])),
        ("wrong_shape", array_map(shape="2")),
        ("malformed", array_map(shape=[3])),
        ("malformed", array_map(data="text")),
        ("wrong_type", array_map(dtype="|O8")),
        ("wrong_type", array_map(dtype="f4,f4")),
        ("wrong_type", array_map(dtype=[["a", "<f4"]])),
        ("malformed", msgpack.packb({"x": {b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}})),
        ("malformed", msgpack.packb({"x": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}})),
    ],
)
def test_refused(rule, data):
    with pytest.raises(RefusedError) as refused:
        read_message(data)
    assert refused.value.rule == rule, refused.value


def test_a_small_message_never_becomes_a_large_object():
    """A megabyte of empty lists would be 60 MB of objects."""
    data = struct.pack(">BI", 0xDD, 1 << 20) + b"\x90" * (1 << 20)
    tracemalloc.start()
    with pytest.raises(RefusedError, match="values"):
        read_message(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_limits_on_bytes():
    with pytest.raises(RefusedError, match="at most 10 are allowed"):
        read_message(packb({"x": "0123456789"}), Limits(message_bytes=10))
    with pytest.raises(RefusedError, match="100 bytes"):
        read_message(packb({"x": np.zeros(101, np.uint8)}), Limits(array_bytes=100))


def test_packed_arrays_and_a_bomb():
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4)
    np.testing.assert_array_equal(unpack_array(pack_array(codes)), codes)
    np.testing.assert_allclose(unpack_array(pack_array(codes, 0.5)), codes * 0.5)
    assert unpack_array(pack_array(np.zeros((0, 3), np.int16), 0.1)).shape == (0, 3)
    bomb = pack_array(np.zeros(1 << 24, np.uint8)) | {"shape": [10]}
    assert unpack_array(bomb).nbytes == 10  # no more is unpacked than is declared
    with pytest.raises(RefusedError, match="its shape says"):
        unpack_array(pack_array(codes) | {"shape": [4, 4]})


def test_pictures():
    row, column = np.mgrid[:48, :64]
    smooth = np.stack([row * 4, column * 3, row + column], axis=-1).astype(np.uint8)[None].repeat(2, axis=0)
    for exact in ("png", "raw"):
        np.testing.assert_array_equal(unpack_images(pack_images(smooth, exact)), smooth)
    assert np.abs(unpack_images(pack_images(smooth)).astype(int) - smooth).mean() < 3
