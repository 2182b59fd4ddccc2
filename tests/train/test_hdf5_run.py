"""From HDF5 files to a robot that acts: trained, measured and played by the robot.json that explains them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.data.foreign import pictures
from tests.data.hdf5_sets import robot, write_robomimic, write_robotwin
from tests.examples import SHORT_VAE
from xwam.cli import main
from xwam.data.opening import open_data
from xwam.robot.robot_json import load_robot, save_robot
from xwam.serve.player import Player, answers_of_checkpoint
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """LIBERO's files, one of two tasks each, and RoboTwin's beside them."""
    root = tmp_path_factory.mktemp("hdf5")
    for task in ("open_drawer", "close_drawer"):
        write_robomimic(root / f"libero/{task}_demo.hdf5", is_libero=True, episodes=2)
    save_robot(root / "libero.json", robot("libero"))
    sources = Sources(every=12, robot=(str(root / "libero.json"),))
    quick = {"num_steps": 2, "validate_every": 0, "save_every": 2}
    last = run_pipeline("debug", [root / "libero"], root / "run", quick, vae=SHORT_VAE, sources=sources)
    return root, last


def test_the_checkpoint_is_measured_and_imagines(run, tmp_path):
    root, last = run
    assert load_robot(last / "robot.json") == robot("libero")
    (root / "libero/metadata.json").write_text("{}")  # as published sets have it; these files are none
    report, few = tmp_path / "report.json", ["--action-steps", "1", "--video-steps", "2"]
    main(
        [
            "evaluate",
            str(last),
            "--data",
            str(root / "libero"),
            "--clips",
            "1",
            "--out",
            str(report),
            *few,
            "--no-report",
        ]
    )
    assert json.loads(report.read_text())["psnr_db"] > 0
    main(
        ["imagine", str(last), "--data", str(root / "libero"), "--episode", "1", "--out", str(tmp_path / "seen"), *few]
    )
    assert (tmp_path / "seen/world.npz").is_file()


def test_the_robot_plays_in_its_own_numbers(run):
    root, last = run
    episodes = open_data(root / "libero", robot=robot("libero"))
    columns = {key: rows[0] for key, rows in episodes.columns(0).items()}
    upside_down = {"obs/agentview_rgb": "cam_high", "obs/eye_in_hand_rgb": "cam_wrist"}
    images = {key: pictures(0)[film][1][::-1] for key, film in upside_down.items()}
    player = Player(answers_of_checkpoint(last))
    command = player.command(columns, images, "open the drawer")["actions"]
    assert command.shape == (7,), "as robosuite's controller takes it"
    assert np.abs(command[:6]).max() < 5
    assert abs(command[6]) < 5


def test_the_page_of_the_checks(run, tmp_path, capsys):
    root, _ = run
    save_robot(tmp_path / "early.json", replace(robot("libero"), action_ahead=0))
    out = ["--out", str(tmp_path / "check")]
    main(["check", "data", str(root / "libero"), "--robot", str(root / "libero.json"), *out])
    assert "0 wrong" in capsys.readouterr().out
    assert (tmp_path / "check/check.html").is_file()
    main(["check", "data", str(root / "libero"), "--robot", str(tmp_path / "early.json"), *out])
    assert "look   timing of 'left_position': action_ahead=1 fits a little better" in capsys.readouterr().out


def test_statistics_and_guessed_depth_lie_beside_a_single_file(tmp_path, capsys):
    path = write_robomimic(tmp_path / "image.hdf5")
    which = replace(robot("robomimic"), instruction="lift the cube")
    save_robot(tmp_path / "robot.json", which)
    main(["stats", str(path), "--robot", str(tmp_path / "robot.json")])
    assert str(tmp_path / "image/meta/normalizer.json") in capsys.readouterr().out
    episodes = open_data(path, robot=which)
    assert episodes.annotated.folder == tmp_path / "image/depth"
    assert episodes.depth(0, "wrist", np.array([0])) is None


def test_depth_of_the_files_is_trained_on(tmp_path):
    root, which = write_robotwin(tmp_path / "set"), robot("robotwin")
    head, *others = which.cameras
    head = replace(head, depth_key="observation/head_camera/depth", depth_unit="mm")
    save_robot(tmp_path / "robot.json", replace(which, cameras=(head, *others)))
    sources = Sources(every=12, robot=(str(tmp_path / "robot.json"),))
    quick = {"num_steps": 2, "validate_every": 0, "save_every": 2}
    last = run_pipeline("debug", [root], tmp_path / "run", quick, vae=SHORT_VAE, sources=sources)
    assert json.loads((last / "config.json").read_text())["view_names"] == ["head", "left_wrist", "right_wrist"]
    report, few = tmp_path / "report.json", ["--action-steps", "1", "--video-steps", "2"]
    main(["evaluate", str(last), "--data", str(root), "--clips", "1", "--out", str(report), *few, "--no-report"])
    assert json.loads(report.read_text())["abs_rel"] > 0, "measured against the files' depth"
