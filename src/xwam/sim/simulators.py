"""The simulators by name: which tasks they have, with which robot, and how a task is opened. Imports none of them."""

import importlib.util
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, get_args

from xwam.config import Simulator
from xwam.robot.layout import Layout, differences, same_rate
from xwam.sim import metaworld, robosuite
from xwam.sim.env import ExpertEnv, check_task
from xwam.sim.render import INSTALL
from xwam.strict_json import suggest

MakeEnv = Callable[..., ExpertEnv]  # (task, *, width_px, height_px); a function of a module, as workers import it


class SimulatedRobot(NamedTuple):
    """What a task's robot understands, and what it sees with."""

    layout: Layout
    action_hz: float
    cameras: tuple[str, ...]


class SimulatorInfo(NamedTuple):
    """One simulator."""

    package: str  # that must be installed
    install: str  # how
    make_env: MakeEnv
    robots: Mapping[str, SimulatedRobot]  # of every task that has an expert
    first_task: str  # the one to begin with
    max_steps: int  # actions after which an episode counts as failed


def simulator_named(simulator: Simulator) -> SimulatorInfo:
    """A simulator by its name. Raises ValueError on another name."""
    match simulator:
        case "metaworld":
            sawyer = SimulatedRobot(metaworld.METAWORLD_LAYOUT, metaworld.ACTION_HZ, tuple(metaworld.VIEWS))
            robots = dict.fromkeys(metaworld.TASKS, sawyer)
            first, limit = "button-press-topdown-v3", metaworld.MAX_STEPS
            return SimulatorInfo("metaworld", INSTALL, metaworld.make_metaworld, robots, first, limit)
        case "robosuite":
            robots = {
                name: SimulatedRobot(
                    robosuite.LAYOUTS[task.num_arms], robosuite.ACTION_HZ, tuple(robosuite.VIEWS[task.num_arms])
                )
                for name, task in robosuite.TASKS.items()
            }
            return SimulatorInfo(
                "robosuite", robosuite.INSTALL, robosuite.make_robosuite, robots, "Lift", robosuite.MAX_STEPS
            )
    raise ValueError(f"simulator={simulator!r}: {suggest(simulator, get_args(Simulator))}")


def robot_of(simulator: Simulator, task: str) -> SimulatedRobot:
    """The robot that does this task. Raises ValueError with the nearest names."""
    robots = simulator_named(simulator).robots
    check_task(task, robots)
    return robots[task]


def check_tasks(simulator: Simulator, tasks: Sequence[str]) -> None:
    """Refuse tasks that the simulator does not have, and tasks of different robots, before anything starts."""
    robots = {task: robot_of(simulator, task).layout for task in tasks}
    for task, layout in robots.items():
        if wrong := differences(layout, robots[tasks[0]]):
            raise ValueError(
                f"tasks: {task} has another robot than {tasks[0]} ({wrong[0]}); take them one after another."
            )


def check_robot(
    simulator: Simulator, tasks: Sequence[str], layout: Layout, *, action_hz: float, views: Collection[str]
) -> None:
    """Refuse tasks whose robot is not the one that a policy was made for, or that lack a view it needs.

    Raises ValueError, or ImportError when the simulator is not installed. What the sign of a gripper's command means
    stands in no layout and is not compared.
    """
    check_tasks(simulator, tasks)
    everyone: tuple[Simulator, ...] = get_args(Simulator)
    ours = {robot.layout.name for name in everyone for robot in simulator_named(name).robots.values()}
    for task in tasks:
        robot = robot_of(simulator, task)
        wrong = differences(layout, robot.layout)
        if layout.name in ours - {robot.layout.name}:
            wrong.append(f"robot {layout.name!r}, not {robot.layout.name!r}")
        if not same_rate(action_hz, robot.action_hz):
            wrong.append(f"action_hz={action_hz:g}, not {robot.action_hz:g}")
        wrong += [
            f"camera {name!r}, not among {', '.join(robot.cameras)}" for name in views if name not in robot.cameras
        ]
        if wrong:
            raise ValueError(f"task={task!r} has another robot than this policy: {'; '.join(wrong)}.")
    if importlib.util.find_spec(simulator_named(simulator).package) is None:
        raise ImportError(f"{simulator} is not installed: {simulator_named(simulator).install}")
