"""The published data sets, trained on and judged as they lie there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.foreign import ARM
from tests.examples import SHORT_VAE
from xwam.cli import main
from xwam.config import Config
from xwam.data.opening import open_data
from xwam.data.xwam_json import CAMERAS_FILE, METADATA_FILE, open_xwam_json
from xwam.evaluate.open_loop import evaluate_open_loop
from xwam.policy import load_policy
from xwam.records import Camera
from xwam.robot.calibration import save_cameras
from xwam.robot.published import ROBOTS
from xwam.strict_json import load
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline

SETS = Path(__file__).parents[1] / "goldens" / "data" / "dataset"


@pytest.mark.parametrize(("name", "robot"), [("raw_single", "robocasa"), ("delta_dual", "robotwin")])
def test_a_published_set_says_itself_what_it_holds(name, robot):
    episodes, known = open_data(SETS / name), ROBOTS[robot]
    assert episodes.layout == known.layout
    assert tuple(camera.name for camera in episodes.cameras) == known.view_names
    same = open_xwam_json(SETS / name, layout=known.layout, raw_actions=robot == "robocasa")
    np.testing.assert_array_equal(episodes.info(1).action, same.info(1).action)
    assert np.abs(episodes.info(1).action).max() > 0


@pytest.mark.parametrize(("name", "robot"), [("raw_single", "robocasa"), ("delta_dual", "robotwin")])
def test_it_is_trained_on_and_judged_without_a_word_more(name, robot, tmp_path):
    changes = {"num_steps": 2, "validate_every": 0}
    last = run_pipeline("debug", SETS / name, tmp_path / "run", changes, vae=SHORT_VAE, sources=Sources(every=8))
    config = load(Config, last / "config.json")
    assert config.view_names == ROBOTS[robot].view_names
    assert config.clip.action_hz == open_data(SETS / name).action_hz
    policy = load_policy(last)
    assert policy.layout == ROBOTS[robot].layout
    report = evaluate_open_loop(policy, SETS / name, num_clips=1, seed=0, out=tmp_path / "open.json", has_report=False)
    error = "action_command" if robot == "robocasa" else "action_position_m"
    assert np.isfinite([report[key] for key in ("psnr_db", "abs_rel", error, "path_m")]).all()
    assert "chamfer_m" not in report, "the set says nothing of where its cameras stand"


def test_calibration_is_found_beside_it(tmp_path):
    root = tmp_path / "raw_single"
    shutil.copytree(SETS / "raw_single", root)
    before = open_data(root)
    seen = before.cameras[0]
    mine = Camera(
        name=seen.name, width=seen.width, height=seen.height, intrinsics=np.diag([50.0, 50.0, 1.0]),
        base_from_camera=np.eye(4), near_m=0.2, far_m=3.0,
    )  # fmt: skip
    save_cameras(root / CAMERAS_FILE, [mine])
    after = open_data(root)
    assert [camera.is_calibrated for camera in after.cameras] == [True, False, False]
    assert after.fingerprint != before.fingerprint
    statistics = root / "meta" / "normalizer.json"
    statistics.parent.mkdir()
    statistics.write_text("{}")
    assert open_data(root).fingerprint == after.fingerprint, "statistics that were written there are not data"
    depth = after.depth(0, seen.name, np.arange(2))
    assert 0.2 - 1e-6 <= depth.min() <= depth.max() <= 3.0 + 1e-6
    save_cameras(root / CAMERAS_FILE, [Camera(name=seen.name, width=1, height=seen.height)])
    with pytest.raises(ValueError, match=f"camera '{seen.name}' is 1 x {seen.height}"):
        open_data(root)
    save_cameras(root / CAMERAS_FILE, [Camera(name="elsewhere", width=1, height=1)])
    with pytest.raises(ValueError, match="camera='elsewhere'"):
        open_data(root)


def test_statistics_are_written_and_a_mapping_is_refused(tmp_path, capsys):
    main(["stats", str(SETS / "raw_single"), "--out", str(tmp_path / "made" / "normalizer.json"), "--processes", "1"])
    assert "fingerprint" in capsys.readouterr().out
    assert json.loads((tmp_path / "made" / "normalizer.json").read_text())
    with pytest.raises(ValueError, match="explains itself; leave it out"):
        open_data(SETS / "raw_single", robot=ARM)
    with pytest.raises(SystemExit):
        main(["check", "data", str(SETS / "raw_single")])
    assert "checked are LeRobot's" in capsys.readouterr().err
    (tmp_path / METADATA_FILE).write_text("{}")
    with pytest.raises(ValueError, match="names no episode"):
        open_data(tmp_path)
