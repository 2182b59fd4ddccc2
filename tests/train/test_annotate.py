"""Depth that a teacher adds: a real model with small random weights, the scale of what was measured, no lost work."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.data.foreign import ARM, FPS, SIZE, write_foreign
from tests.data.hdf5_sets import robot as hdf5_robot
from tests.data.hdf5_sets import write_robotwin
from tests.model.test_depth_teacher import save_tiny_model
from xwam.cli import main
from xwam.config import ClipConfig
from xwam.data.annotated import AnnotatedDepth, Provenance, Scale
from xwam.data.clips import Clips
from xwam.data.depth import DepthCoding
from xwam.data.lerobot import open_lerobot
from xwam.data.opening import open_data
from xwam.records import Camera
from xwam.robot.robot_json import save_robot
from xwam.train.annotate import annotate_depth, seen_from

pytest.importorskip("PIL", reason="pip install 'xwam[view]'")
INTRINSICS = ((40.0, 0.0, 16.0), (0.0, 40.0, 16.0), (0.0, 0.0, 1.0))
POSE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
STEPS = 12
FRONT = replace(
    ARM.cameras[0], depth_key="observation.images.cam_high_depth", intrinsics=INTRINSICS, base_from_camera=POSE
)
SAME_PLACE = replace(ARM.cameras[1], intrinsics=INTRINSICS, base_from_camera=POSE)  # sees just what the front sees
ROBOT = replace(ARM, cameras=(FRONT, SAME_PLACE))


class Ruler:
    """A teacher that knows the scene but not its scale (an adapter of our own)."""

    def __init__(self, kind="metric"):
        self.name, self.kind, self.seen = f"ruler ({kind})", kind, 0

    def estimate(self, images):
        self.seen += len(images)
        metres = np.full(images.shape[:3], 1.0, np.float32) + np.linspace(0, 1, images.shape[2], dtype=np.float32)
        return 3 * metres if self.kind == "metric" else (1 / metres - 0.2) / 5


@pytest.fixture
def data(tmp_path):
    return write_foreign(tmp_path / "set", episodes=3, depth=True, steps=STEPS)


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_the_scale_is_that_of_the_camera_that_measures(data, kind):
    episodes = open_lerobot(data, robot=ROBOT)
    before = episodes.fingerprint
    assert episodes.depth(0, "wrist", np.arange(2)) is None
    assert annotate_depth(episodes, Ruler(kind), weights="abc", progress=False) == 3, "the front has depth already"
    again = open_lerobot(data, robot=ROBOT)
    assert again.fingerprint != before, "caches made without it are stale"
    np.testing.assert_allclose(
        again.depth(1, "wrist", np.arange(STEPS)), again.depth(1, "front", np.arange(STEPS)), atol=0.01
    )
    known = json.loads((data / "depth/wrist/provenance.json").read_text())
    assert known["teacher"] == f"ruler ({kind})"
    assert known["episodes"]["2"]["reference"] == "another camera of the episode"
    assert known["episodes"]["2"]["abs_rel"] < 0.01
    assert known["episodes"]["2"]["num_pixels"] > 1000
    clip = ClipConfig(
        num_frames=5,
        height_px=SIZE,
        width_px=SIZE,
        action_horizon=4,
        actions_per_frame=1,
        action_hz=float(FPS),
        crop=0.9,
    )
    assert Clips(again, clip, ("front", "wrist")).at(1, 0).depth_mask.all(), "training now has depth everywhere"


def test_the_scale_of_the_same_camera_elsewhere(data):
    (data / "videos/observation.images.cam_high_depth/chunk-000/file-001.mp4").unlink()
    robot = replace(ROBOT, cameras=(replace(FRONT, may_be_missing=True, intrinsics=None, base_from_camera=None),))
    episodes = open_lerobot(data, robot=robot)
    assert annotate_depth(episodes, Ruler(), weights="abc", progress=False) == 1
    known = json.loads((data / "depth/front/provenance.json").read_text())["episodes"]
    assert {name: entry["reference"] for name, entry in known.items()} == {"1": "the same camera in other episodes"}
    assert known["1"]["scale"] == pytest.approx(1 / 3, abs=1e-3)


def test_without_reference_only_metres_are_taken(data):
    bare = replace(ARM, cameras=(ARM.cameras[1],))
    with pytest.raises(ValueError, match="answers up to a scale"):
        annotate_depth(open_lerobot(data, robot=bare), Ruler("relative"), weights="abc", progress=False)
    annotate_depth(open_lerobot(data, robot=bare), Ruler(), weights="abc", progress=False)
    episode = json.loads((data / "depth/wrist/provenance.json").read_text())["episodes"]["0"]
    assert (episode["reference"], episode["scale"]) == ("none", 1.0)


def test_an_interruption_loses_nothing_that_is_finished(data):
    class Impatient(Ruler):
        def estimate(self, images):
            if self.seen >= STEPS:
                raise KeyboardInterrupt
            return super().estimate(images)

    with pytest.raises(KeyboardInterrupt):
        annotate_depth(open_lerobot(data, robot=ROBOT), Impatient(), weights="abc", progress=False)
    half = open_lerobot(data, robot=ROBOT)
    assert [half.annotated.has(half.label(number), "wrist") for number in range(3)] == [True, False, False]
    assert half.depth(1, "wrist", np.array([0])) is None
    when = (data / "depth/wrist/episode-000000.mp4").stat().st_mtime_ns
    assert annotate_depth(half, Ruler(), weights="abc", progress=False) == 2
    assert (data / "depth/wrist/episode-000000.mp4").stat().st_mtime_ns == when
    assert annotate_depth(open_lerobot(data, robot=ROBOT), Ruler(), weights="abc", progress=False) == 0
    with pytest.raises(ValueError, match="weights def"):
        annotate_depth(open_lerobot(data, robot=ROBOT), Ruler(), weights="def", progress=False)
    assert annotate_depth(open_lerobot(data, robot=ROBOT), Ruler(), weights="def", rebuild=True, progress=False) == 3
    assert not list((data / "depth").rglob("*.tmp"))


def test_the_command_runs_a_model_of_transformers(data, tmp_path, capsys):
    teacher = save_tiny_model(tmp_path / "teacher", "metric")
    save_robot(tmp_path / "robot.json", replace(ARM, cameras=ARM.cameras[1:]))
    main(["annotate", "depth", str(data), "--teacher", str(teacher), "--robot", str(tmp_path / "robot.json")])
    assert "3 episodes got depth" in capsys.readouterr().out
    depth = open_lerobot(data, robot=ARM).depth(0, "wrist", np.arange(STEPS))
    assert depth is not None
    assert 0 <= depth.min() <= depth.max() <= ARM.cameras[1].far_m + 0.01
    known = json.loads((data / "depth/wrist/provenance.json").read_text())
    assert "depth_anything" in known["teacher"]
    assert len(known["weights"]) == 16


class Later:
    """A teacher whose every answer is a metre further away than the one before."""

    name, kind = "later", "metric"

    def __init__(self):
        self.metres = 0.0

    def estimate(self, images):
        self.metres += 1
        return np.full(images.shape[:3], self.metres, np.float32)


def test_guesses_stay_with_their_files(tmp_path):
    """Files come and go, and rates are no whole numbers; pictures turned otherwise are refused."""
    root, which = write_robotwin(tmp_path / "set", depth=False), hdf5_robot("robotwin")
    which = replace(which, cameras=which.cameras[:1])
    assert annotate_depth(open_data(root, robot=which), Later(), weights="abc", progress=False) == 3
    first = np.array([0])
    depths = [open_data(root, robot=which).depth(number, "head", first).mean() for number in range(3)]
    np.testing.assert_allclose(depths, [1, 2, 3], rtol=0.01)
    (root / "data/episode0.hdf5").unlink()
    fewer = open_data(root, robot=which)
    np.testing.assert_allclose([fewer.depth(n, "head", first).mean() for n in range(2)], [2, 3], rtol=0.01)
    turned = replace(which, cameras=(replace(which.cameras[0], mirrored=True),))
    with pytest.raises(
        ValueError, match=r"guessed from other pictures \(stored='upright', now 'mirrored' in robot.json"
    ):
        open_data(root, robot=turned).depth(0, "head", first)
    with pytest.raises(ValueError, match="say rebuild to replace it"):
        annotate_depth(open_data(root, robot=turned), Later(), weights="abc", progress=False)
    assert annotate_depth(open_data(root, robot=turned), Later(), weights="abc", rebuild=True, progress=False) == 2
    np.testing.assert_allclose(open_data(root, robot=turned).depth(0, "head", first).mean(), 1, rtol=0.01)


def test_guesses_are_of_the_pictures_they_were_made_from(data):
    """A camera's name may later stand for another film."""
    high, wrist = ARM.cameras
    which = replace(ARM, cameras=(wrist,))
    annotate_depth(open_lerobot(data, robot=which), Later(), weights="abc", progress=False)
    path = data / "depth/wrist/provenance.json"
    known = json.loads(path.read_text())
    assert (known["key"], known["stored"], known["channel_order"]) == (wrist.key, "upright", "rgb")
    first, asked = np.array([0]), {"weights": "abc", "progress": False}
    for other, words in (
        (replace(wrist, key=high.key), "key='observation.images.cam_wrist', now 'observation.images.cam_high'"),
        (replace(wrist, channel_order="bgr"), "channel_order='rgb', now 'bgr'"),
    ):
        changed = open_lerobot(data, robot=replace(ARM, cameras=(other,)))
        with pytest.raises(ValueError, match=rf"camera='wrist': its depth was guessed from other pictures \({words}"):
            changed.depth(0, "wrist", first)
        with pytest.raises(ValueError, match=rf"of other pictures \({words}\); say rebuild"):
            annotate_depth(changed, Later(), **asked)


def test_every_episode_has_a_film_of_its_own(tmp_path):
    """Names become file names: '-' and '/' are told apart, and numbers from words."""
    names = ["pick/place-1", "pick-place/1", "pick/place%2D1", "12", "012", "episode-000012", "plain/1"]
    source, coding = ARM.cameras[1], DepthCoding()
    pictures = {"key": source.key, "stored": "upright", "channel_order": "rgb"}
    range_m = {"near_m": 0.1, "far_m": 20.0, "coding": tuple(coding)[:3]}
    origin = Provenance(teacher="t", kind="metric", weights="w", **range_m, **pictures)

    def metres(depth, name):
        return float(depth.read(name, source, np.array([0]), 20.0).mean())

    depth = AnnotatedDepth(tmp_path)
    for number, name in enumerate(names, start=1):
        film = np.full((2, 16, 16), float(number), np.float32)
        depth.write(name, "wrist", film, 20, origin, Scale(reference="none"))
    assert [round(metres(AnnotatedDepth(tmp_path), name)) for name in names] == list(range(1, len(names) + 1))
    assert (tmp_path / "depth/wrist/plain-1.mp4").is_file()
    assert (tmp_path / "depth/wrist/episode-000012.mp4").is_file()


def test_depth_from_another_place():
    """A wall one metre away, seen by a camera half a metre nearer, and by one beside the first."""
    intrinsics, wall = np.array(INTRINSICS), np.full((32, 32), 1.0)
    camera = Camera(name="a", width=32, height=32, intrinsics=intrinsics, base_from_camera=np.eye(4))
    nearer, beside = np.eye(4), np.eye(4)
    nearer[2, 3], beside[0, 3] = 0.5, 0.25  # 0.25 m are 10 pixels at 1 m
    close = seen_from(wall, camera, np.eye(4), camera, nearer)
    np.testing.assert_allclose(close[close > 0], 0.5, atol=1e-6)
    cut = replace(camera, depth_at=-9.5)  # its depth was taken ten pixels nearer to the corner than its centre
    np.testing.assert_array_equal(seen_from(wall, cut, np.eye(4), camera, np.eye(4))[:22, :22], 1)
    assert not seen_from(wall, cut, np.eye(4), camera, np.eye(4))[22:].any()
    shifted = seen_from(wall, camera, np.eye(4), camera, beside)
    assert (shifted[:, :22] == 1).all()
    assert (shifted[:, 22:] == 0).all()
