import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from tests.view.scene import LAYOUT, make_real
from xwam.imagine import write_world
from xwam.records import Camera
from xwam.view.export import load_prediction, save_prediction, write_glb, write_ply
from xwam.view.points import PointCloud, camera_poses, fuse


def assert_same(a, b):
    """Every field of two Predictions, to the bit."""
    for name, value in vars(a).items():
        other = vars(b)[name]
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            np.testing.assert_array_equal(value, other)
        elif name == "cameras":
            for left, right in zip(value, other, strict=True):
                assert {k: np.asarray(v).tolist() for k, v in vars(left).items()} == {
                    k: np.asarray(v).tolist() for k, v in vars(right).items()
                }
        else:
            assert value == other


def test_a_prediction_comes_back_whole(tmp_path, imagined, real):
    save_prediction(tmp_path / "a.npz", imagined, LAYOUT, real=real)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    saved = load_prediction(tmp_path / "a.npz")
    assert saved.layout == LAYOUT
    assert_same(saved.prediction, imagined)
    assert_same(saved.real, real)


def test_actions_only_and_bare_cameras_come_back_too(tmp_path, imagined):
    early = replace(imagined, video=None, depth=None, cameras=(Camera(name="bare", width=4, height=4),))
    save_prediction(tmp_path / "a.npz", early, LAYOUT)
    saved = load_prediction(tmp_path / "a.npz")
    assert_same(saved.prediction, early)
    assert saved.real is None


def test_the_schema_is_what_the_docstring_says(tmp_path, imagined):
    save_prediction(tmp_path / "a.npz", imagined, LAYOUT)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert set(stored.files) == {"action", "state", "video", "depth", "base_from_camera", "facts"}
        poses, facts = stored["base_from_camera"], json.loads(str(stored["facts"]))
    np.testing.assert_array_equal(poses[2], camera_poses(imagined.cameras[2], imagined.state, LAYOUT))
    assert facts["instruction"] == imagined.instruction
    assert [camera["name"] for camera in facts["cameras"]] == ["left", "right", "wrist"]


def test_wrong_files_are_refused(tmp_path, imagined):
    with pytest.raises(FileNotFoundError, match="xwam imagine"):
        load_prediction(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="format=None"):
        load_prediction(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"end in \.npz"):
        save_prediction(tmp_path / "a.json", imagined, LAYOUT)


def test_ply_holds_the_cloud(tmp_path, imagined):
    cloud = fuse(imagined, LAYOUT, 1)
    write_ply(tmp_path / "a.ply", cloud)
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\n")
    assert f"element vertex {len(cloud.points)}\n".encode() in head
    rows = np.frombuffer(body, dtype=[("points", "<f4", 3), ("colours", "u1", 3), ("view", "u1")])
    np.testing.assert_array_equal(rows["points"], cloud.points)
    np.testing.assert_array_equal(rows["colours"], cloud.colours)
    np.testing.assert_array_equal(rows["view"], cloud.view)


def test_another_program_reads_the_ply(tmp_path, imagined):
    trimesh = pytest.importorskip("trimesh")
    cloud = fuse(imagined, LAYOUT, 1)
    write_ply(tmp_path / "a.ply", cloud)
    read = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_allclose(read.vertices, cloud.points)
    np.testing.assert_array_equal(np.asarray(read.colors)[:, :3], cloud.colours)


def read_glb(path):
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack("<IIIII", data[:20])
    assert (magic, version, total, kind) == (0x46546C67, 2, len(data), 0x4E4F534A)
    return json.loads(data[20 : 20 + length]), data[20 + length + 8 :]


def test_glb_holds_every_step_and_shows_one_at_a_time(tmp_path, imagined):
    clouds = [fuse(imagined, LAYOUT, step) for step in range(3)]
    write_glb(tmp_path / "a.glb", clouds, imagined.frame_hz)
    scene, binary = read_glb(tmp_path / "a.glb")

    def values(index, dtype):
        row = scene["accessors"][index]
        view = scene["bufferViews"][row["bufferView"]]
        return np.frombuffer(binary[view["byteOffset"] :][: view["byteLength"]], dtype).reshape(row["count"], -1)

    for cloud, mesh in zip(clouds, scene["meshes"], strict=True):
        attributes = mesh["primitives"][0]["attributes"]
        np.testing.assert_array_equal(values(attributes["POSITION"], "<f4"), cloud.points)
        light = values(attributes["COLOR_0"], "<u2")[:, :3] / 65535
        shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # as viewers show it
        np.testing.assert_array_equal(np.rint(255 * shown), cloud.colours)
    animation = scene["animations"][0]
    times = values(animation["samplers"][0]["input"], "<f4")[:, 0]
    np.testing.assert_allclose(times, [0, 0.2, 0.4, 0.6], atol=1e-6)
    shown = np.stack([values(s["output"], "<f4")[:, 0] for s in animation["samplers"]])
    np.testing.assert_array_equal(shown, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])


def test_another_program_reads_the_glb(tmp_path, imagined):
    trimesh = pytest.importorskip("trimesh")
    cloud = fuse(imagined, LAYOUT, 0)
    write_glb(tmp_path / "a.glb", [cloud], imagined.frame_hz)
    read = trimesh.load(tmp_path / "a.glb").to_geometry()
    np.testing.assert_allclose(np.sort(read.vertices[:, 1]), np.sort(cloud.points[:, 2]), atol=1e-6)  # z up is y up


def test_empty_clouds_are_refused(tmp_path):
    empty = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="at least one point"):
        write_glb(tmp_path / "a.glb", [empty], 5.0)
    assert list(tmp_path.iterdir()) == []


def test_without_calibration_what_needs_none_is_still_written(tmp_path):
    real = make_real(num_steps=3, size=32)
    bare = tuple(Camera(name=camera.name, width=camera.width, height=camera.height) for camera in real.cameras)
    with pytest.warns(UserWarning, match="no page and no point clouds without depth and a calibrated camera"):
        shown = write_world(tmp_path / "world", replace(real, cameras=bare), LAYOUT)
    assert {path.name for path in (tmp_path / "world").iterdir()} == {"world.npz", "world.mp4"}
    assert shown == tmp_path / "world" / "world.mp4"


def test_nothing_of_an_earlier_world_stays_beside_a_new_one(tmp_path):
    real = make_real(num_steps=3, size=32)
    (tmp_path / "world.rrd").write_bytes(b"of long ago")
    (tmp_path / "notes.txt").write_text("mine")
    write_world(tmp_path, real, LAYOUT)
    assert {"world.html", "world.glb", "points-02.ply"} < {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "world.rrd").exists()
    with pytest.warns(UserWarning, match="this world has no depth"):
        shown = write_world(tmp_path, replace(real, depth=None), LAYOUT)
    assert shown == tmp_path / "world.mp4"
    assert {path.name for path in tmp_path.iterdir()} == {"world.npz", "world.mp4", "notes.txt"}


def test_without_known_depth_the_rest_is_still_written(tmp_path):
    real = make_real(num_steps=3, size=32)
    with pytest.warns(UserWarning, match="no depth is known"):
        shown = write_world(tmp_path / "none", replace(real, depth=0 * real.depth), LAYOUT)
    assert shown == tmp_path / "none" / "world.mp4"
    some = real.depth.copy()
    some[:, 1] = 0
    with pytest.warns(UserWarning, match=r"no world\.glb, since some moments have no points"):
        shown = write_world(tmp_path / "some", replace(real, depth=some), LAYOUT)
    assert shown == tmp_path / "some" / "world.html"
    written = {path.name for path in (tmp_path / "some").iterdir()}
    assert {"world.html", "points-00.ply", "points-01.ply", "points-02.ply"} <= written
    assert "world.glb" not in written
