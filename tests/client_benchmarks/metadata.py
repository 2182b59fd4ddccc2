"""What servers say, without a server."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from xwam.robot.layout import Layout
from xwam.robot.published import ROBOTS, RobotName
from xwam.robot.robot_json import RobotConfig, layout_of, load_robot
from xwam.strict_json import to_json

FILES = Path(__file__).parents[2] / "robots"


def of_file(name: str) -> tuple[RobotConfig, dict[str, Any]]:
    """A server whose checkpoint learned from data that ``robots/NAME.json`` describes, and that robot."""
    robot = load_robot(FILES / f"{name}.json")
    return robot, _said(layout_of(robot), robot.view_names, json.loads(to_json(robot)))


def of_published(name: RobotName) -> dict[str, Any]:
    """A server of the published weights: it has no robot.json."""
    return _said(ROBOTS[name].layout, ROBOTS[name].view_names, None)


def _said(layout: Layout, views: tuple[str, ...], robot: Any) -> dict[str, Any]:
    return {"layout": dataclasses.asdict(layout), "robot": robot, "cameras": [{"name": name} for name in views]}
