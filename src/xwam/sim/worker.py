"""One simulator in a process of its own, asked through a pipe. No torch here: it starts in a moment and stays small."""

from multiprocessing.connection import Connection

from xwam.config import Simulator
from xwam.sim.env import Env
from xwam.sim.simulators import simulator_named


def simulate(connection: Connection, simulator: Simulator, width_px: int, height_px: int, max_steps: int) -> None:
    """Answer ``reset`` and ``play`` with (observation, success, steps, is_over) until the other end closes.

    The simulator stays open while episodes are of its task; there is one at a time.
    """
    env: Env | None = None
    steps = 0
    try:
        while True:
            word, value = connection.recv()
            if word == "reset":
                task, seed = value
                if env is None or env.task != task:
                    if env is not None:
                        env.close()
                    env = simulator_named(simulator).make_env(task, width_px=width_px, height_px=height_px)
                env.reset(seed)
                steps = 0
            else:
                assert env is not None, "reset comes first"
                for action in value:
                    env.step(action)
                    steps += 1
                    if env.success or steps >= max_steps:
                        break
            is_over = steps >= max_steps or env.success
            connection.send((None if is_over else env.observe(), bool(env.success), steps, is_over))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return
