"""Video files: RGB as h264, depth codes as lossless 12-bit hevc; frames are read exactly.

Files have a constant frame rate, start at time 0 and have no B-frames; a key frame every few frames makes reading a
window from the middle cheap.
"""

import io
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.container
import av.error
import numpy as np
from jaxtyping import Int, Shaped, UInt8, UInt16

from xwam.robot.layout import same_rate

KEY_FRAME_EVERY = 10
PixelFormat = Literal["rgb24", "gray12le"]

_RGB_OPTIONS = {"crf": "20", "g": str(KEY_FRAME_EVERY), "bf": "0", "preset": "veryfast"}
_CODING_BLOCKS_PX = (64, 32, 16)


def check_size(width_px: int, height_px: int) -> None:
    """Refuse pictures that the two formats below cannot hold: odd ones, and depth of fewer than 16 pixels."""
    if width_px % 2 or height_px % 2 or min(width_px, height_px) < 16:
        raise ValueError(f"width_px={width_px}, height_px={height_px}: videos need even sizes, at least 16 pixels.")


def write_rgb(path: Path, frames: UInt8[np.ndarray, "N H W 3"], fps: int | Fraction) -> None:
    """Write an mp4 (h264, yuv420p). Height and width must be even."""
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"image size height={height}, width={width}: the video format needs even numbers.")
    _write(path, frames, fps, "libx264", "yuv420p", "rgb24", _RGB_OPTIONS)


def write_codes(path: Path, codes: UInt16[np.ndarray, "N H W"], fps: int) -> None:
    """Write depth codes 0..4095 as mp4 without loss (hevc, gray12le), and read them back to be sure.

    Height and width must be at least 16. Raises RuntimeError when the encoder loses something all the same.
    """
    height, width = codes.shape[1:3]
    if min(height, width) < 16:
        raise ValueError(f"depth size {codes.shape[1:3]}: the video format needs at least 16 x 16 pixels.")
    for options in _lossless_options(height, width):
        _write(path, codes, fps, "libx265", "gray12le", "gray12le", {"x265-params": options})
        if np.array_equal(read_codes(path, np.arange(len(codes)), float(fps)), codes):
            return
    raise RuntimeError(
        f"video={path}: this encoder ({av.library_versions['libavcodec']}) loses depth; install another PyAV."
    )


def read_frames(
    path: Path, indices: Int[np.ndarray, " T"], fps: float, *, first_s: float = 0.0
) -> UInt8[np.ndarray, "T H W 3"]:
    """RGB frames by number, counted from ``first_s`` seconds into the file."""
    return _read(path, indices, fps, first_s, "rgb24")


def read_codes(
    path: Path, indices: Int[np.ndarray, " T"], fps: float, *, first_s: float = 0.0
) -> UInt16[np.ndarray, "T H W"]:
    """Depth codes by frame number, counted from ``first_s`` seconds into the file."""
    return _read(path, indices, fps, first_s, "gray12le")


def read_picture(content: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """One picture file (PNG, JPEG) as RGB. Raises ValueError for what is none."""
    return _read_picture(content).to_ndarray(format="rgb24")


def read_depth_picture(content: bytes) -> UInt16[np.ndarray, "H W"]:
    """One picture file (PNG) of 16-bit grey values. Raises ValueError for one of 8 bits or of colours."""
    picture = _read_picture(content)
    if not picture.format.name.startswith("gray16"):
        raise ValueError(f"a depth picture is {picture.format.name}: must be 16-bit grey (PNG).")
    return picture.to_ndarray(format="gray16le")


def read_all(
    files: Iterable[bytes], where: str, read: Callable[[bytes], np.ndarray] = read_picture
) -> Shaped[np.ndarray, "T ..."]:
    """Picture files of one size. Raises ValueError that says ``where`` they are when one cannot be read."""
    try:
        return np.stack([read(content) for content in files])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_picture(content: bytes) -> av.VideoFrame:
    try:
        with av.open(io.BytesIO(content), "r") as container:
            return next(container.decode(video=0))
    except av.error.FFmpegError as error:
        raise ValueError(f"a picture of {len(content)} bytes cannot be read ({error}): copy the data again.") from error


def num_frames(path: Path, fps: float) -> tuple[int, float]:
    """How many frames a video file holds and how many pass in a second, without decoding any."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = sum(packet.size > 0 for packet in container.demux(stream))
        return count, float(stream.average_rate or fps)


def _lossless_options(height: int, width: int) -> list[str]:
    """Options of x265 to try in turn: frames that follow from others, then every frame for itself.

    In a picture that is one coding block wide, x265 leaves the corners right of the picture unset in the frames that it
    predicts from, and what it writes depends on what stood in memory. So there are at least two blocks side by side;
    with 16 pixels this is impossible, and frames are not predicted from others.

    One thread each: with threads of its own, x265 now and then crashes or waits for itself when the last frames are
    fetched (once in some thousand small films); without, it is also faster.
    """
    fixed = "lossless=1:bframes=0:scenecut=0:log-level=none:pools=none:frame-threads=1:no-wpp=1"
    alone = f"{fixed}:keyint=1:min-keyint=1"
    blocks = [size for size in _CODING_BLOCKS_PX if size < width and size <= height]
    if not blocks:
        return [alone]
    return [f"{fixed}:keyint={KEY_FRAME_EVERY}:min-keyint={KEY_FRAME_EVERY}:ctu={blocks[0]}", alone]


def _write(
    path: Path,
    frames: np.ndarray,
    fps: int | Fraction,
    codec: str,
    stored: str,
    given: PixelFormat,
    options: dict[str, str],
) -> None:
    time_base = 1 / Fraction(fps)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], stored
        stream.codec_context.time_base = time_base
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=given)
            picture.pts, picture.time_base = number, time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _read(path: Path, indices: np.ndarray, fps: float, first_s: float, wanted: PixelFormat) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"video={path}: no such file; copy it again or leave its episode out.")
    try:
        with av.open(str(path)) as container:
            return _decode(container, path, indices, fps, first_s, wanted)
    except av.error.FFmpegError as error:
        raise ValueError(f"video={path}: cannot be read ({error}); the file is damaged: copy it again.") from error


def _decode(
    container: av.container.InputContainer,
    path: Path,
    indices: np.ndarray,
    fps: float,
    first_s: float,
    wanted: PixelFormat,
) -> np.ndarray:
    if not container.streams.video:
        raise ValueError(f"video={path}: has no video stream; the file is damaged: copy it again.")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # files are small and read by many processes at once
    if stream.average_rate is None or not same_rate(float(stream.average_rate), fps):
        raise ValueError(f"video={path} has fps={stream.average_rate}: the data set says fps={fps:g}; encode it again.")
    rate = _own_rate(stream, fps)
    found: dict[int, np.ndarray] = {}
    numbers = sorted({int(i) for i in indices})
    decoded, at = None, None
    for number in numbers:
        seconds = first_s + number / rate
        if at is None or number - at > 2 * KEY_FRAME_EVERY:
            container.seek(round(seconds * 1e6), backward=True)  # microseconds
            decoded = container.decode(stream)
        for frame in decoded or ():
            if frame.time is not None and frame.time >= seconds - 0.5 / rate:
                if frame.time > seconds + 0.5 / rate:
                    raise ValueError(f"video={path}: frame {number} is missing; the file is damaged: copy it again.")
                found[number], at = frame.to_ndarray(format=wanted), number
                break
        else:
            raise ValueError(
                f"video={path} ends before frame {number} ({seconds:.3f} s): the file is truncated; "
                "copy it again or leave its episode out."
            )
    return np.stack([found[int(i)] for i in indices])


def _own_rate(stream: av.VideoStream, fps: float) -> float:
    """Frames per second by the file's own clock, which need not be just what the data set says (29.97 and 30).

    The data set's rate, the file's average and that of its first frames: the one in the middle is right when two are.
    An average is off where the last frame lasts longer or shorter than others, the first frames where clocks tremble.
    """
    assert stream.average_rate is not None
    return sorted((fps, float(stream.average_rate), float(stream.base_rate or fps)))[1]
