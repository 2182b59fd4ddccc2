"""X-WAM as a policy of LeRobot, and a simulated robot to try it with. LeRobot finds this package by its name."""

from lerobot_policy_xwam.configuration_xwam import XWAMConfig
from lerobot_policy_xwam.simulator import XWAMSimulator, XWAMSimulatorConfig

__all__ = ["XWAMConfig", "XWAMSimulator", "XWAMSimulatorConfig"]
