"""Depth codes come back exactly, at every size of image; frames are found by the file's own clock."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from xwam.data import videos
from xwam.data.videos import KEY_FRAME_EVERY, read_codes, read_frames, write_codes, write_rgb

LENGTH = KEY_FRAME_EVERY + 2  # a second key frame
SQUARES = [(16, 16), (24, 24), (32, 32), (48, 48), (64, 64), (96, 96), (128, 128)]
OTHERS = [(64, 16), (16, 64), (96, 32), (32, 96), (128, 64), (64, 128), (18, 22), (34, 66), (66, 34), (62, 64)]


def _codes(kind: str, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    steps = np.arange(LENGTH)[:, None, None]
    match kind:
        case "noise":
            codes = np.random.default_rng(height * 1000 + width).integers(0, 4096, (LENGTH, height, width))
        case "ramp":
            codes = rows * 7 + columns * 11 + steps * 3
        case "shifted":  # the picture moves: motion that points out of the frame
            still = np.random.default_rng(0).integers(0, 4096, (height + LENGTH, width + LENGTH))
            codes = np.stack([still[i : i + height, i : i + width] for i in range(LENGTH)])
        case _:
            codes = np.full((LENGTH, height, width), 4095)
    return codes.astype(np.uint16)


@pytest.mark.parametrize(("height", "width"), SQUARES + OTHERS)
def test_depth_codes_come_back_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    first = videos._lossless_options(height, width)[0]
    monkeypatch.setattr(videos, "_lossless_options", lambda *_: [first])  # the second try must not be needed
    for kind in ("noise", "ramp", "shifted", "constant"):
        codes = _codes(kind, height, width)
        write_codes(tmp_path / "codes.mp4", codes, 20)
        np.testing.assert_array_equal(read_codes(tmp_path / "codes.mp4", np.arange(LENGTH), 20.0), codes)
        window = np.array([LENGTH - 1, 3])
        np.testing.assert_array_equal(read_codes(tmp_path / "codes.mp4", window, 20.0), codes[window])


def test_an_encoder_that_loses_depth_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = _codes("noise", 32, 48)
    fixed = "bframes=0:log-level=none"
    monkeypatch.setattr(videos, "_lossless_options", lambda *_: [f"{fixed}:qp=40", f"{fixed}:lossless=1:keyint=1"])
    write_codes(tmp_path / "codes.mp4", codes, 20)
    np.testing.assert_array_equal(read_codes(tmp_path / "codes.mp4", np.arange(LENGTH), 20.0), codes)
    monkeypatch.setattr(videos, "_lossless_options", lambda *_: [f"{fixed}:qp=40"])
    with pytest.raises(RuntimeError, match="loses depth"):
        write_codes(tmp_path / "codes.mp4", codes, 20)


def test_sizes_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 x 16"):
        write_codes(tmp_path / "codes.mp4", np.zeros((1, 14, 32), np.uint16), 20)
    with pytest.raises(ValueError, match="even"):
        videos.write_rgb(tmp_path / "rgb.mp4", np.zeros((1, 15, 32, 3), np.uint8), 20)


NTSC = Fraction(30000, 1001)
FILM = 640  # frames: 30 instead of 29.97 is half a frame too early from frame 500 on


def _numbered(path: Path, fps: Fraction | int) -> None:
    write_rgb(path, np.broadcast_to(_grey(np.arange(FILM))[:, None, None, None], (FILM, 16, 16, 3)), fps)


def _grey(numbers: np.ndarray) -> np.ndarray:
    """Unlike that of the frames before and after."""
    return (20 + 40 * (numbers % 6)).astype(np.uint8)


def _expect(path: Path, numbers: np.ndarray, first: int = 0, first_s: float = 0.0) -> None:
    seen = read_frames(path, numbers, 30.0, first_s=first_s).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(seen, _grey(first + numbers), atol=4)


def test_frames_are_found_by_the_files_own_clock(tmp_path: Path) -> None:
    _numbered(tmp_path / "film.mp4", NTSC)
    _expect(tmp_path / "film.mp4", np.array([FILM - 1, 499, 510, 0, 1]))
    _expect(tmp_path / "film.mp4", np.arange(0, FILM, 7))
    _expect(tmp_path / "film.mp4", np.array([FILM - 31, 5]), first=30, first_s=float(30 / NTSC))


@pytest.mark.parametrize("share", [0.001, 5])
def test_a_last_frame_of_another_length_changes_no_clock(tmp_path: Path, share: float) -> None:
    """As it does the file's average rate."""
    _numbered(tmp_path / "even.mp4", 30)
    with av.open(str(tmp_path / "even.mp4")) as given, av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(packet for packet in given.demux(video=0) if packet.size):
            packet.duration = round((packet.duration or 0) * (share if number == FILM - 1 else 1))
            packet.stream = stream
            film.mux(packet)
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert film.streams.video[0].average_rate != 30
    _expect(tmp_path / "film.mp4", np.array([FILM - 1, FILM - 2, 300, 0]))
