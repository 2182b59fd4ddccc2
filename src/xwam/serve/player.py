"""A robot's side in the robot's own numbers: its columns and pictures in, one command per control period out.

    player = Player(answers_of_checkpoint(Path("checkpoints/mine")), play="wait")   # or answers_of_server(client)
    while True:                                                  # player.fps times a second
        robot.send(player.command({"observation.state": robot.numbers()}, pictures, "fold the cloth")["action"])

Columns and pictures are called as in the data set that the checkpoint was trained on. Its ``robot.json`` translates, in
both directions; without one the numbers are those of the layout. A target is counted from where the robot is when its
action begins, not from where it was when the chunk was made. Nothing here limits what comes out.
"""

import dataclasses
import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from xwam_client.chunks import Chunks, Command
from xwam_client.client import Client

from xwam.compile import made_up_observation
from xwam.data.lerobot_format import video_key
from xwam.policy import load_policy
from xwam.records import Observation, Prediction
from xwam.robot.columns import column_widths, read_state, write_action
from xwam.robot.layout import Layout, differences
from xwam.robot.of_checkpoint import own_robot
from xwam.robot.robot_json import RobotConfig, layout_of
from xwam.strict_json import from_json, suggest

STATE_KEY, ACTION_KEY = "observation.state", "action"  # of a robot without a robot.json
FACTS = ("checkpoint", "layout", "robot", "action_hz", "action_horizon")  # of a server; they must stay what they were


class Answers(NamedTuple):
    """Who answers, and what must be known of it. ``ask`` is called as ``Client.ask`` is; it gives the actions alone."""

    ask: Callable[..., Future[dict[str, Any]]]
    layout: Layout
    action_hz: float
    action_horizon: int
    views: tuple[str, ...]
    robot: RobotConfig | None
    close: Callable[[], None]


def answers_of_checkpoint(
    folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, robot: str | None = None,
    action_steps: int | None = None, watch: Callable[[Prediction], Any] | None = None,
) -> Answers:  # fmt: skip
    """A checkpoint in this process, answering in a thread of its own; it is warm when this returns.

    ``watch``: imagine the world as well, and hand it over (in that thread) before the actions are answered: to look at,
    not for a robot that waits.
    """
    has_world = watch is not None
    policy = load_policy(
        folder, device=device, dtype=dtype, with_world=has_world, robot=robot, action_steps=action_steps
    )
    thread, told = ThreadPoolExecutor(1, "xwam-policy"), set[str]()

    def answer(observation: Observation, **asked: Any) -> dict[str, Any]:
        *_, prediction = policy.predict(observation, actions_only=not has_world, **asked)
        if watch is not None:
            watch(prediction.without_views(policy.absent))
        return {"actions": prediction.action}

    def ask(observation: Observation, **asked: Any) -> Future[dict[str, Any]]:
        policy.normalizer.check_plausible(observation.state)  # as a server does
        for part, text in policy.normalizer.unusual(observation.state).items():
            if part not in told:
                told.add(part)
                warnings.warn(text, stacklevel=2)
        return thread.submit(answer, observation, **asked)

    made_up = made_up_observation(policy)
    thread.submit(deque, policy.predict(made_up, actions_only=not has_world), 0).result()
    return Answers(
        ask,
        policy.layout,
        policy.config.clip.action_hz,
        policy.config.clip.action_horizon,
        policy.needed_views,
        own_robot(folder, robot),
        lambda: thread.shutdown(wait=False, cancel_futures=True),
    )


def answers_of_server(client: Client) -> Answers:
    """A server that a client is connected to. Raises ValueError when it does not say what its numbers mean.

    A server that comes back with another checkpoint, or another robot, is not asked: ``ask`` then raises ValueError.
    """
    known = client.metadata
    if "robot" not in known:
        raise ValueError(
            f"server {client.uri} does not tell its robot.json (version {known.get('versions')}): update it."
        )

    def ask(observation: Observation, **asked: Any) -> Future[dict[str, Any]]:
        changed = [key for key in FACTS if client.metadata.get(key) != known[key]]
        if changed:
            raise ValueError(
                f"server {client.uri} now has another {', '.join(changed)}: nothing was asked; begin anew."
            )
        return client.ask(observation, **asked).actions

    return Answers(
        ask,
        from_json(Layout, json.dumps(known["layout"])),
        known["action_hz"],
        known["action_horizon"],
        tuple(camera["name"] for camera in known["cameras"]),
        None if known["robot"] is None else from_json(RobotConfig, json.dumps(known["robot"])),
        client.close,
    )


class Player:
    """One robot's play, one call of ``command`` per control period.

    ``play``: as in ``xwam_client.chunks``. With ``wait`` a call lasts until there is something to play; the others
    return at once, but for the first call of an episode. ``replan_every``: actions (None: half of a chunk). While
    nothing is left to play, targets stay where they were and changes are 0.
    """

    def __init__(
        self, answers: Answers, *, play: str = "wait", replan_every: int | None = None, timeout_s: float = 60.0
    ) -> None:
        """Raises ValueError for a robot.json of another robot, or one that leaves slots of its commands unnamed."""
        self.answers, self.robot, self.timeout_s = answers, answers.robot, timeout_s
        self.frames_per_action = 1 if self.robot is None else self.robot.frames_per_action
        self.fps = answers.action_hz * self.frames_per_action
        if self.robot is None:
            self.state_widths = {STATE_KEY: answers.layout.state_width}
            self.action_widths = {ACTION_KEY: answers.layout.action_width}
        else:
            _check(self.robot, answers.layout)
            self.state_widths, self.action_widths = column_widths(self.robot.state), column_widths(self.robot.action)
        sources = {} if self.robot is None else {camera.name: camera for camera in self.robot.cameras}
        self.image_keys = {name: sources[name].key if name in sources else video_key(name) for name in answers.views}
        self._sources = sources
        self.play = play
        self.replan_every = max(1, answers.action_horizon // 2) if replan_every is None else replan_every
        self.reset()

    def reset(self) -> None:
        """A new episode: forget what was to be played."""
        keeps_time = self.play != "wait"
        self._chunks = Chunks(
            self.answers.ask, [dataclasses.asdict(part) for part in self.answers.layout.action], play=self.play,
            replan_every=self.replan_every, seed=None if keeps_time else 0,
            action_hz=self.answers.action_hz if keeps_time else None,
        )  # fmt: skip
        self._frame, self._held_since = 0, None
        self._sent: dict[str, np.ndarray] = {}

    def command(
        self,
        columns: Mapping[str, Float[np.ndarray, " _n"]],
        images: Mapping[str, UInt8[np.ndarray, "_H _W 3"]],
        instruction: str,
    ) -> dict[str, Float[np.ndarray, " _m"]]:
        """What to send to the robot in this control period, by column, in its own units.

        ``columns``: at least those of ``state_widths``; ``images``: those of ``image_keys``, RGB. An empty instruction
        is the robot.json's. Raises ValueError for what is missing, has another width or is no number, RefusedError, and
        ConnectionError when no answer came for ``timeout_s``.
        """
        state = self._state(columns)
        if self._frame % self.frames_per_action == 0:
            words = instruction or (self.robot and self.robot.instruction) or ""
            self._begun_at = state
            self._command = self._next(lambda: Observation(images=self._images(images), state=state, instruction=words))
        self._frame += 1
        action = self._command.action[None].astype(np.float64)
        if self.robot is None:
            return {ACTION_KEY: action[0]}
        written = {key: rows[0] for key, rows in write_action(self.robot, action, self._begun_at[None]).items()}
        if self._command.is_held:  # a target of "here, where I am" would follow a robot that sinks
            for part in self.robot.action:
                if part.key is not None and part.reference == "absolute":
                    written[part.key][part.start : part.stop] = self._sent[part.key][part.start : part.stop]
        self._sent = written
        return {key: values.copy() for key, values in written.items()}

    def _next(self, observe: Callable[[], Observation]) -> Command:
        """The next action. Raises what a settled question raises."""
        if self._frame == 0 or self.play == "wait":
            self._chunks.settle(observe, self.timeout_s)
        command, now = self._chunks.next_action(observe), time.monotonic()
        if not command.is_held:
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        elif now - self._held_since > self.timeout_s:
            raise self._chunks.trouble or ConnectionError(f"no answer has come for {self.timeout_s:g} s.")
        return command

    def _state(self, columns: Mapping[str, np.ndarray]) -> Float[np.ndarray, " Ds"]:
        for key, width in self.state_widths.items():
            if key not in columns:
                raise ValueError(f"column={key!r} is missing: {suggest(key, columns)}")
            if columns[key].ndim != 1 or len(columns[key]) < width:
                raise ValueError(f"column {key!r} has shape {columns[key].shape}: must be one row of {width} or more.")
        if not self.state_widths:  # a robot that tells nothing of itself
            state = np.zeros(self.answers.layout.state_width)
        elif self.robot is None:
            state = columns[STATE_KEY].astype(np.float64)
        else:
            state = read_state(self.robot, {key: columns[key][None] for key in self.state_widths})[0]
        self.answers.layout.check_state(state)
        return state

    def _images(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pictures by the model's names, turned as the data set's were."""
        seen = {}
        for name, key in self.image_keys.items():
            if key not in images:
                raise ValueError(f"image={key!r} (camera {name!r}) is missing: {suggest(key, images)}")
            seen[name] = self._sources[name].upright(images[key]) if name in self._sources else images[key]
        return seen


def _check(robot: RobotConfig, layout: Layout) -> None:
    """Refuse another robot's file, and one by which a slot between two parts would be sent as 0."""
    if wrong := differences(layout_of(robot), layout):
        raise ValueError(f"robot.json {robot.name!r} is not the policy's robot: {'; '.join(wrong)}.")
    named = {(part.key, slot) for part in robot.action for slot in range(part.start, part.stop)}
    for key, width in column_widths(robot.action).items():
        for slot in range(width):
            if (key, slot) not in named:
                raise ValueError(
                    f"robot.json {robot.name!r}: no part names slot {slot} of {key!r}, which would always be "
                    "sent as 0: name it (as joints; a speed with reference delta), and train with that."
                )
