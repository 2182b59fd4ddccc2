"""Play answers one action at a time, also while the next answer is being computed.

Every control period asks ``next_action`` once. Three ways to bridge the time that an answer takes:

- ``wait``      stand still until it is there;
- ``overlap``   go on with the old chunk. The answer is joined where it belongs: of an answer that took ``d`` actions
                the first ``d`` are the past;
- ``realtime``  the same, and the request says what will be played meanwhile (the rest of the old chunk, and how much of
                it, by the delays measured so far), so that the answer goes on from there: real-time chunking.

When a chunk is used up before the next is there, the robot holds: deltas are 0, everything else stays what it was.
An answer that took longer than a whole chunk, and much longer than this server usually needs, is about a scene that has
changed since: it is thrown away, the robot asks again and stands still until the new answer comes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Callable, NamedTuple

import numpy as np

from xwam_client.protocol import PAUSE_S, RefusedError, may_pass

PLAYS = ("wait", "overlap", "realtime")
DELAYS_LOOKED_AT = 8  # the longest of the latest delays is the one to expect
FAR_CHUNKS = 4  # so many chunks late, an answer is too old even for a robot that stood still since it was seen


class Command(NamedTuple):
    """What to play in this control period."""

    action: np.ndarray  # (Da,)
    is_held: bool  # nothing was left to play
    is_first: bool  # the first of a new chunk


class Chunks:
    """One episode's play."""

    def __init__(
        self, ask: Callable[..., Future], action_parts: Sequence[Mapping[str, Any]], *, play: str = "realtime",
        replan_every: int, seed: int | None = None, action_hz: float | None = None,
    ) -> None:  # fmt: skip
        """``ask`` is called with an observation, ``seed`` and, in real-time play, ``prefix`` and ``num_committed``.

        ``replan_every``: actions from one observation to the next. Request ``n`` has the seed ``seed + n``; such a
        request is answered alone, to the same bytes. None: it may share a batch with other robots'.

        ``action_hz``: the control periods that pass in a second; None where time stands still in ``settle``.
        """
        if play not in PLAYS or replan_every < 1:
            raise ValueError(f"play={play!r}: one of {', '.join(PLAYS)}; replan_every={replan_every}: 1 or more.")
        sizes = [part["size"] for part in action_parts]
        self.ask, self.play, self.replan_every, self.seed, self.action_hz = ask, play, replan_every, seed, action_hz
        self.delays: list[int] = []  # of every answer, in control periods
        self._expected: list[int] = []  # of those that came while the robot was playing
        self.trouble: Exception | None = None  # why the last question had no actions that could be played
        self.num_asked = 0
        self._is_delta = np.repeat([part["kind"].startswith("delta") for part in action_parts], sizes)
        self._last = np.zeros(sum(sizes), np.float32)
        # What is played; its next row; the row from which on to ask again.
        self._chunk, self._position, self._ask_from = np.zeros((0, sum(sizes)), np.float32), 0, 0
        self._answer: Future | None = None
        # Control periods since the observation of the question on its way: so late its answer will be; and those of
        # them in which an action was played: so many rows of the answer are past.
        # Nothing of this chunk was played yet; when to ask again: a question that failed is not put again at once.
        self._waited, self._played, self._is_new, self._ask_at = 0, 0, False, 0.0

    @property
    def is_waiting(self) -> bool:
        """True when only a new answer can make the robot move."""
        return self._position >= (self._ask_from if self.play == "wait" else len(self._chunk))

    def next_action(self, observe: Callable[[], Any]) -> Command:
        """What to play now; ``observe`` is called when it is time to ask again. Raises RefusedError.

        Raises ValueError before ``settle``: a robot that has had no answer yet cannot know how to stand still.
        """
        self._go_on(observe)
        if not len(self._chunk):
            raise ValueError("no answer has come yet: call settle(observe) before the first action.")
        self._waited += 1
        if self.is_waiting:
            return Command(np.where(self._is_delta, 0, self._last).astype(np.float32), True, False)
        self._last, is_first, self._is_new = np.array(self._chunk[self._position], np.float32), self._is_new, False
        self._position += 1
        self._played += 1
        return Command(self._last, False, is_first)

    def settle(self, observe: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Return when there is something to play: before an episode begins, and where time can be stopped.

        Asks again while it may help, for ``timeout_s`` in all. Then raises the last ConnectionError or RefusedError, or
        a ConnectionError that says that no answer came.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._go_on(observe)
            now = time.monotonic()
            if not self.is_waiting:
                return
            if now >= deadline:
                raise self.trouble or ConnectionError(f"no answer has come for {timeout_s:g} s.")
            if self._answer is None:  # a pause
                time.sleep(max(0.0, min(self._ask_at, deadline) - now))
            else:
                wait([self._answer], deadline - now)
                self._waited += math.ceil((time.monotonic() - now) * (self.action_hz or 0))

    def _go_on(self, observe: Callable[[], Any]) -> None:
        """Take the answer that has come; ask for the next chunk once enough of this one was played."""
        self._take_answer()
        if self._answer is not None or self._position < self._ask_from or time.monotonic() < self._ask_at:
            return
        asked: dict[str, Any] = {} if self.seed is None else {"seed": self.seed + self.num_asked}
        left = self._chunk[self._position :]
        if self.play == "realtime" and len(left):
            # At first only the first answer's delay is known, for which the robot stood still: a rough guide.
            expected = max(self._expected[-DELAYS_LOOKED_AT:], default=min(self.delays[0], len(self._chunk) // 2))
            asked.update(prefix=left, num_committed=min(expected, len(left), len(self._chunk) - 1))
        self._answer = self.ask(observe(), **asked)
        self._waited = self._played = 0
        self.num_asked += 1
        self._take_answer()  # a server in the same process may be that quick

    def _take_answer(self) -> None:
        """Change over to the new chunk if it is there: behind the actions that were played since its observation."""
        if self._answer is None or not self._answer.done():
            return
        answer, self._answer = self._answer, None
        try:
            actions = np.asarray(answer.result()["actions"])
            # Behind what was played an answer fits however late it is, but the world has gone on. One that is late even
            # for this server is asked for once more: the robot stands still by then, so that the next one is played.
            old = max(len(actions) * (1 if self._played else FAR_CHUNKS), 2 * max(self.delays[-1:], default=0))
            self.delays.append(self._waited)
            if len(self._chunk) and self.trouble is None and self._waited > old:
                raise ConnectionError(f"answers take {self._waited} periods, a chunk has {len(actions)}.")
        except (ConnectionError, RefusedError) as error:
            if not may_pass(error):
                raise
            self.trouble, self._ask_at = error, time.monotonic() + PAUSE_S
            return
        self.trouble = None
        if len(self._chunk) and self._played == self._waited:  # it never had to stand still
            self._expected.append(self._waited)
        self._chunk, self._position, self._is_new = actions, self._played, True
        self._ask_from = min(self.replan_every, len(actions))
