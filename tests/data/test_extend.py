"""docs/extend.md: the worked example of a robot is true, word for word, on a data set that looks foreign."""

import json
import re
from pathlib import Path

import numpy as np

from tests.data.foreign import path_of, write_foreign
from xwam.cli import main
from xwam.data.lerobot import open_lerobot
from xwam.robot.columns import read_action, read_state, write_action
from xwam.robot.robot_json import RobotConfig, load_robot
from xwam.strict_json import from_json

GUIDE = Path(__file__).parents[2] / "docs" / "extend.md"


def test_the_example_reads_the_foreign_data_set_and_is_checked(tmp_path, capsys):
    text = re.search(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    robot = from_json(RobotConfig, text)
    data = write_foreign(tmp_path / "theirs")
    info = open_lerobot(data, robot=robot).info(0)
    np.testing.assert_allclose(info.state[:, :3], path_of(0)[0][:-1], atol=1e-6)
    (tmp_path / "robot.json").write_text(text)
    command = ["check", "data", str(data), "--robot", str(tmp_path / "robot.json"), "--preset", "debug"]
    main([*command, "--out", str(tmp_path / "check")])
    assert "0 wrong" in capsys.readouterr().out
    page = (tmp_path / "check/check.html").read_text()
    assert "Nothing wrong was found" in page
    assert page.count("<svg") == 6, "three parts of the state, three of the action"
    assert (tmp_path / "check/contact_sheet.png").stat().st_size > 1000

    wrong = json.loads(text)
    wrong["action"][0]["reference"] = "delta"
    (tmp_path / "robot.json").write_text(json.dumps(wrong))
    try:
        main([*command, "--out", str(tmp_path / "check")])
        code = 0
    except SystemExit as end:
        code = end.code
    assert code == 1
    assert "WRONG  action 'left_position': reference='absolute' fits the states better" in capsys.readouterr().out
    assert "Correct this before you train" in (tmp_path / "check/check.html").read_text()


def test_the_robots_of_the_lerobot_guide_mean_something():
    """Degrees and per cent there and back; four frames of changes are one action."""
    text = re.search(r"```json\n(.*?)```", GUIDE.with_name("lerobot.md").read_text(), re.DOTALL)[1]
    arm = from_json(RobotConfig, text)
    simulated = load_robot(GUIDE.parents[1] / "benchmarks" / "lerobot_metaworld.json")
    numbers = np.array([[-90.0, 45.0, 0.0, 10.0, 180.0, 50.0]])
    state = read_state(arm, {"observation.state": numbers})
    np.testing.assert_allclose(state[0, :6], [*np.deg2rad(numbers[0, :5]), 0.5])
    action = read_action(arm, {"observation.state": numbers, "action": numbers})
    np.testing.assert_allclose(write_action(arm, action, state)["action"], numbers)
    commands = np.tile([1.0, 0.0, -0.5, -1.0], (4, 1))
    action = read_action(simulated, {"observation.state": np.zeros((4, 4)), "action": commands})
    np.testing.assert_allclose(action[0, :3], [0.04, 0, -0.02])
    written = write_action(simulated, action, read_state(simulated, {"observation.state": np.zeros((1, 4))}))
    np.testing.assert_allclose(written["action"], commands[:1])
