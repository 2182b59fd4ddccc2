"""``--robot.type=xwam_simulator``: a simulated task as a robot of LeRobot, to try everything without hardware.

Its numbers are those of the simulator's layout: state ``NAME_i.pos``, action ``NAME_i.vel`` (changes per control
period, and the gripper's command), so that ``lerobot-rollout`` passes both on.
"""

# pyright: reportMissingImports=false
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot
from xwam.robot.layout import Part
from xwam.sim.env import Env
from xwam.sim.simulators import robot_of, simulator_named

LOG = logging.getLogger(__name__)


@RobotConfig.register_subclass("xwam_simulator")
@dataclass(kw_only=True)
class XWAMSimulatorConfig(RobotConfig):
    """Which task, which placement."""

    simulator: str = "metaworld"  # or robosuite
    task: str = "button-press-topdown-v3"
    seed: int = 0
    size_px: int = 128  # of its square pictures


class XWAMSimulator(Robot):
    """A simulated robot. It stands still while nobody sends an action, and says when its task is solved."""

    config_class = XWAMSimulatorConfig
    name = "xwam_simulator"

    def __init__(self, config: XWAMSimulatorConfig) -> None:
        super().__init__(config)
        self.config = config
        self.robot = robot_of(config.simulator, config.task)  # pyright: ignore[reportArgumentType]
        self._env: Env | None = None
        self._is_told = False

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        """One number per slot of the state, one picture per camera."""
        size = self.config.size_px
        return {
            **dict.fromkeys(_names(self.robot.layout.state, "pos"), float),
            **dict.fromkeys(self.robot.cameras, (size, size, 3)),
        }

    @cached_property
    def action_features(self) -> dict[str, Any]:
        """One number per slot of the action."""
        return dict.fromkeys(_names(self.robot.layout.action, "vel"), float)

    @property
    def cameras(self) -> dict[str, Any]:
        """LeRobot counts them."""
        return dict.fromkeys(self.robot.cameras)

    @property
    def is_connected(self) -> bool:
        """True between ``connect`` and ``disconnect``."""
        return self._env is not None

    @property
    def is_calibrated(self) -> bool:
        """Always."""
        return True

    @property
    def env(self) -> Env:
        """The simulator. Raises ConnectionError before ``connect``."""
        if self._env is None:
            raise ConnectionError("this robot is not connected.")
        return self._env

    def connect(self, calibrate: bool = True) -> None:
        """Open the simulator at the placement ``seed``."""
        size = {"width_px": self.config.size_px, "height_px": self.config.size_px}
        simulator = simulator_named(self.config.simulator)  # pyright: ignore[reportArgumentType]
        self._env, self._is_told = simulator.make_env(self.config.task, **size), False
        self._env.reset(self.config.seed)
        LOG.info("xwam_simulator: %s, placement %d: %s", self.config.task, self.config.seed, self._env.instruction)

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, Any]:
        """State and pictures now."""
        seen = self.env.observe()
        numbers = dict(zip(_names(self.robot.layout.state, "pos"), seen.state.tolist(), strict=True))
        return {**numbers, **seen.images}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Play one action. Raises ValueError when one of its numbers is missing."""
        names = _names(self.robot.layout.action, "vel")
        if missing := [name for name in names if name not in action]:
            raise ValueError(f"action lacks {', '.join(missing)}.")
        self.env.step(np.array([float(action[name]) for name in names]))
        if self.env.success and not self._is_told:
            self._is_told = True
            LOG.info("xwam_simulator: solved.")
        return action

    def disconnect(self) -> None:
        """Close the simulator."""
        LOG.info("xwam_simulator: %s", "it was solved." if self.env.success else "it was not solved.")
        self.env.close()
        self._env = None


def _names(parts: tuple[Part, ...], ending: str) -> list[str]:
    return [f"{part.name}_{slot}.{ending}" for part in parts for slot in range(part.size)]
