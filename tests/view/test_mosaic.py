import sys
from dataclasses import replace

import av
import numpy as np
import pytest

from tests.view.scene import LAYOUT
from xwam.colours import UNKNOWN_RGB, depth_range, depth_to_colours
from xwam.view.mosaic import BOTTOM_PX, GAP_PX, LEFT_PX, NARROWEST_PX, TILE_PX, TOP_PX, mosaic_frames, write_mosaic
from xwam.view.points import fuse
from xwam.view.rerun_log import VOXEL_M, write_rerun


def test_depth_colours_get_darker_with_distance():
    depth = np.linspace(0.5, 2, 50)
    colours = depth_to_colours(depth, 0.5, 2.0).astype(float)
    brightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) < 0).all()
    assert colours[0].tolist() == [253, 231, 36]
    assert colours[-1].tolist() == [68, 1, 84]
    assert tuple(depth_to_colours(np.zeros(1), 0.5, 2.0)[0]) == UNKNOWN_RGB


def test_depth_range_ignores_what_is_unknown():
    assert depth_range(np.zeros(4)) == (0.1, 10.0)
    near, far = depth_range(np.array([0.0] * 50 + [1.0] * 50 + [2.0] * 50))
    assert (near, far) == (1, 2)
    assert depth_range(np.ones(3)) == (1, 1.01)


def test_rows_and_columns_stand_where_they_should(imagined, real):
    frames = mosaic_frames(imagined, real=real)
    assert frames.shape[0] == 5
    assert all(size % 2 == 0 for size in frames.shape[1:3])
    for row, video in enumerate((real.video, imagined.video)):
        for view in range(3):
            top, left = TOP_PX + row * (TILE_PX + GAP_PX), LEFT_PX + view * (TILE_PX + GAP_PX)
            tile = frames[3, top : top + TILE_PX, left : left + TILE_PX]
            np.testing.assert_array_equal(tile[4::8, 4::8], video[view, 3])


def test_a_short_real_video_leaves_empty_tiles(imagined, real):
    short = replace(real, video=real.video[:, :2], depth=real.depth[:, :2], state=real.state[:2])
    frames = mosaic_frames(imagined, real=short)
    top, left = TOP_PX, LEFT_PX
    assert (frames[1, top : top + 40, left : left + 40] < 250).any()
    assert (frames[2, top : top + 40, left : left + 40] == 255).all()


def test_narrow_pictures_have_white_beside_them_and_room_for_the_scale_below(imagined):
    """A scale has its numbers left and right of it: a third of a square picture is too little for them."""
    third = (slice(None),) * 3 + (slice(11, 21),)
    narrow = replace(imagined, video=imagined.video[third], depth=imagined.depth[third])
    frames = mosaic_frames(narrow)
    assert frames.shape[2] == LEFT_PX + 3 * (NARROWEST_PX + GAP_PX)
    tile = frames[3, TOP_PX : TOP_PX + TILE_PX, LEFT_PX : LEFT_PX + NARROWEST_PX]
    np.testing.assert_array_equal(tile[4::8, 44:120:8], narrow.video[0, 3])
    assert (tile[:, :40] == 255).all()
    assert (tile[:, -40:] == 255).all()
    scale = frames[3, -BOTTOM_PX + 18, LEFT_PX : LEFT_PX + NARROWEST_PX]
    assert tuple(scale[60]) == (253, 231, 36), "near is yellow"
    assert tuple(scale[99]) == (68, 1, 84), "far is violet"


def test_a_long_instruction_leaves_room_for_the_time(imagined):
    """Beside a single camera there is little of it: the words end before the time begins."""
    first = {"cameras": imagined.cameras[:1], "video": imagined.video[:1], "depth": imagined.depth[:1]}
    alone = replace(imagined, **first)
    long = mosaic_frames(replace(alone, instruction="press the red button from above\nand then let it go again"))
    empty = mosaic_frames(replace(alone, instruction=" "))
    differs = (long[4, :TOP_PX] != empty[4, :TOP_PX]).any(axis=(0, 2))
    time = (empty[4, :TOP_PX] != empty[3, :TOP_PX]).any(axis=(0, 2))
    assert differs.any()
    assert time.any()
    assert np.flatnonzero(differs).max() < np.flatnonzero(time).min()


def test_the_file_plays_at_the_robots_speed(tmp_path, imagined):
    write_mosaic(tmp_path / "a.mp4", imagined)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 5
    expected = mosaic_frames(imagined)
    assert np.abs(np.stack(frames).astype(int) - expected).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_doors_refuse(tmp_path, imagined):
    with pytest.raises(ValueError, match=r"end in \.mp4"):
        write_mosaic(tmp_path / "a.gif", imagined)
    with pytest.raises(ValueError, match="actions only"):
        mosaic_frames(replace(imagined, video=None))


def test_rerun_is_an_extra(tmp_path, imagined, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match=r"pip install 'xwam\[rerun\]'"):
        write_rerun(tmp_path / "a.rrd", imagined, LAYOUT)


def test_rerun_recording(tmp_path, imagined, real):
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'xwam[rerun]'")
    write_rerun(tmp_path / "a.rrd", imagined, LAYOUT, real=real)
    assert (tmp_path / "a.rrd").read_bytes()[:3] == b"RRF"


def test_rerun_reads_back_every_step(tmp_path, imagined, real):
    """rerun's own reader finds each camera, path and cloud of both worlds at every step, and the cloud's points."""
    reader = pytest.importorskip("rerun.chunk", reason="pip install 'xwam[rerun]'").RrdReader
    write_rerun(tmp_path / "world.rrd", imagined, LAYOUT, real=real)
    assert [path.name for path in tmp_path.iterdir()] == ["world.rrd"]
    seen, points = {}, 0
    for chunk in reader(tmp_path / "world.rrd").stream():
        if "time" in chunk.timeline_names:
            table = chunk.to_record_batch()
            where = next(name for name in table.schema.names if name == "time")
            seen.setdefault(chunk.entity_path, set()).update(table.column(where).cast("int64").to_pylist())
            if chunk.entity_path == "/world/imagined/points":
                points += sum(len(row) for row in table.column("Points3D:positions").to_pylist())
    cameras = [f"/cameras/{camera.name}{image}" for camera in real.cameras for image in ("", "/image")]
    depths = [f"/depth/{camera.name}" for camera in real.cameras]
    names = ["/points", "/path/left", *cameras, *depths]
    assert set(seen) == {f"/world/{kind}{name}" for kind in ("imagined", "real") for name in names}
    steps_ns = {round(k / imagined.frame_hz * 1e9) for k in range(len(imagined.state))}
    assert all(times == steps_ns for times in seen.values())
    assert points == sum(len(fuse(imagined, LAYOUT, k, voxel_m=VOXEL_M).points) for k in range(len(imagined.state)))
