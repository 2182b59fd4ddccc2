"""The simulators by name: which tasks they have, with which robot, and how a task is opened. Imports none of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xwam.config import Simulator, suggest
from xwam.robot.layout import Layout, differences
from xwam.sim import metaworld, robosuite
from xwam.sim.env import ExpertEnv

MakeEnv = Callable[..., ExpertEnv]  # (task, *, width_px, height_px); a function of a module, as workers import it


class SimulatedRobot(NamedTuple):
    """What a task's robot understands."""

    layout: Layout
    action_hz: float


def make_env(simulator: Simulator) -> MakeEnv:
    """The function that opens a task of this simulator."""
    return metaworld.make_metaworld if simulator == "metaworld" else robosuite.make_robosuite


def tasks_of(simulator: Simulator) -> tuple[str, ...]:
    """The names of its tasks that have an expert."""
    return metaworld.TASKS if simulator == "metaworld" else tuple(robosuite.TASKS)


def robot_of(simulator: Simulator, task: str) -> SimulatedRobot:
    """Layout and rate of the robot that does this task. Raises ValueError with the nearest names."""
    if task not in tasks_of(simulator):
        raise ValueError(f"task={task!r}: {suggest(task, tasks_of(simulator))}")
    if simulator == "metaworld":
        return SimulatedRobot(metaworld.METAWORLD_LAYOUT, metaworld.ACTION_HZ)
    return SimulatedRobot(robosuite.LAYOUTS[robosuite.TASKS[task].num_arms], robosuite.ACTION_HZ)


def check_tasks(simulator: Simulator, tasks: Sequence[str]) -> None:
    """Refuse tasks that the simulator does not have, and tasks of different robots, before anything starts."""
    robots = {task: robot_of(simulator, task).layout for task in tasks}
    for task, layout in robots.items():
        if wrong := differences(layout, robots[tasks[0]]):
            raise ValueError(
                f"tasks: {task} has another robot than {tasks[0]} ({wrong[0]}); take them one after another."
            )


def check_robot(simulator: Simulator, tasks: Sequence[str], layout: Layout, action_hz: float) -> None:
    """Refuse tasks whose robot is not the one that a policy was made for."""
    check_tasks(simulator, tasks)
    for task in tasks:
        robot = robot_of(simulator, task)
        wrong = differences(layout, robot.layout)
        if robot.action_hz != action_hz:
            wrong.append(f"action_hz={action_hz:g}, not {robot.action_hz:g}")
        if wrong:
            raise ValueError(f"task={task!r} has another robot than this policy: {'; '.join(wrong)}.")
