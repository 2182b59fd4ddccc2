"""Depth codes come back exactly, at every size of image."""

from pathlib import Path

import numpy as np
import pytest

from xwam.data import videos
from xwam.data.videos import KEY_FRAME_EVERY, read_codes, write_codes

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
