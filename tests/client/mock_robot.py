"""A robot of the simplest kind: it integrates what it is told, and counts what it was made to do."""

import numpy as np

from tests.examples import make_observation
from xwam.config import Config
from xwam.robot.layout import Layout


class MockRobot:
    """An ``Env`` around two numbers and noise for pictures. Done once ``max_steps`` actions were played."""

    def __init__(self, config: Config, layout: Layout, *, goal_steps: int = 10_000) -> None:
        self.layout, self.action_hz, self.max_steps = layout, config.clip.action_hz, 40
        self.cameras = dict.fromkeys((*config.view_names, "a camera that the model does not know"))
        self.success, self.num_resets, self.goal_steps = False, 0, goal_steps
        self._config, self.played = config, []

    def reset(self, seed: int) -> None:
        self.success, self.played, self._seed = False, [], seed
        self.num_resets += 1

    def observe(self):
        seen = make_observation(self._config, seed=self._seed + len(self.played))
        state = seen.state.copy()
        state[:3] += np.sum(self.played, axis=0)[:3] if self.played else 0
        images = {**seen.images, "a camera that the model does not know": np.zeros((8, 8, 3), np.uint8)}
        return type(seen)(images=images, state=np.clip(state, -1, 1), instruction="press the button")

    def step(self, action: np.ndarray) -> bool:
        self.layout.check_action(action)
        self.played.append(action)
        self.success = len(self.played) >= self.goal_steps
        return self.success
