"""Close the loop over an ``Env`` (a simulator, or a robot's adapter): observe, ask, play, until it is done.

An ``Env`` has ``cameras``, ``layout``, ``action_hz``, ``max_steps``, ``success`` and the methods ``reset(seed)``,
``observe()`` and ``step(action)``; xwam's ``sim/env.py`` describes it, and any object of that shape will do. A robot
may also have ``hold()``, which is called instead of ``step`` while nothing is left to play: see docs/deploy.md.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from xwam_client.chunks import Chunks
from xwam_client.client import Client


class Episode(NamedTuple):
    """What was played."""

    success: bool
    action: np.ndarray  # (N, Da), in the robot's units
    is_held: np.ndarray  # (N,), True where the robot stood still for want of an answer
    is_first: np.ndarray  # (N,), True at the first action of every chunk
    delays: tuple[int, ...]  # of every answer, in control periods


def rollout(
    env: Any, client: Client, *, seed: int, play: str = "realtime", replan_every: int = 16,
    max_steps: int | None = None, keeps_time: bool = True,
) -> Episode:  # fmt: skip
    """Play one episode. Server and robot are compared before anything moves.

    ``keeps_time``: one action every ``1 / action_hz`` seconds, as a robot does. False: a simulator that stands still
    while the server thinks; its questions name their seeds, so that it can be played again. Raises MismatchError,
    RefusedError, or ConnectionError when no answer has come for ``client.connect_seconds``.
    """
    client.check(env)
    client.reset()
    env.reset(seed)
    chunks = Chunks(
        lambda observation, **asked: client.ask(observation, **asked).actions,
        client.metadata["layout"]["action"], play=play, replan_every=replan_every,
        seed=None if keeps_time else 1000 * seed, action_hz=env.action_hz if keeps_time else None,
    )  # fmt: skip
    commands: list[Any] = []
    while len(commands) < (env.max_steps if max_steps is None else max_steps) and not env.success:
        if not (keeps_time and commands):
            chunks.settle(env.observe, client.connect_seconds)
        command = chunks.next_action(env.observe)
        now = time.monotonic()
        if not commands:
            due = moved_at = now
        if command.is_held and hasattr(env, "hold"):
            env.hold()
        else:
            env.step(command.action)
        commands.append(command)
        moved_at = moved_at if command.is_held else now
        if now - moved_at > client.connect_seconds:
            raise chunks.trouble or ConnectionError(f"{client.uri} has not answered for {client.connect_seconds:g} s")
        due = max(due + 1 / env.action_hz, now + 0.5 / env.action_hz)
        if keeps_time:
            time.sleep(max(0.0, due - time.monotonic()))
    width = sum(part["size"] for part in client.metadata["layout"]["action"])  # there may be no commands
    action = np.array([command.action for command in commands], np.float32).reshape(-1, width)
    is_held, is_first = (np.array([command[which] for command in commands], bool) for which in (1, 2))
    return Episode(bool(env.success), action, is_held, is_first, tuple(chunks.delays))
