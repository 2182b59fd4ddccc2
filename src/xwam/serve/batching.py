"""One thread owns the policy, warms it up, and then always does the most urgent thing next.

Actions go before worlds. Requests that arrive within a short window are answered in one batch; a robot that is alone
does not wait for it. A world is a paused generator: between two denoising steps (and between two decoded views) the
thread looks up, and if somebody wants actions the world waits. Nothing waits silently: beyond ``max_queue`` unfinished
requests, or ``max_bytes`` of their images, a new one is refused at once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from xwam_client.protocol import RefusedError

from xwam.denoise.sampler import StepDone
from xwam.policy import Policy
from xwam.records import Prediction
from xwam.serve.metrics import Metrics
from xwam.serve.ticket import Answer, Part, Refused, Ticket

LOG = logging.getLogger("xwam.serve")


@dataclass(eq=False)
class World:
    """A batch of answers whose actions are given; ``events`` waits between two steps of the rest."""

    tickets: list[Ticket]
    events: Generator[StepDone | list[Prediction]]
    started: float


class Worker:
    """The thread. ``robots`` is how many are connected: when all of them have asked, nobody else need be waited for."""

    def __init__(
        self,
        policy: Policy,
        metrics: Metrics,
        *,
        max_queue: int,
        batch_sizes: Sequence[int],
        batch_window_s: float,
        max_bytes: int,
    ) -> None:
        """``batch_sizes``: those that may be computed, 1 among them; what does not fit goes into the next batch."""
        self.policy, self.metrics = policy, metrics
        self.max_queue, self.batch_sizes, self.batch_window_s = max_queue, tuple(batch_sizes), batch_window_s
        self.max_bytes = max_bytes
        self.robots = 0
        self._changed = threading.Condition(threading.RLock())
        self._open: dict[Ticket, None] = {}
        self._waiting: deque[Ticket] = deque()
        self._worlds: deque[World] = deque()
        self._stopping = False
        self.is_broken = False
        self._prepared: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="xwam-policy", daemon=True)

    def start(self, prepare: Callable[[], None] = lambda: None) -> Future[None]:
        """Begin: ``prepare`` first, in the thread that will answer; the future says when that is done, or its error.

        The thread matters: torch keeps settings of its compiler by thread, and CUDA the current device.
        """
        self._prepare = prepare
        self._prepared.set_running_or_notify_cancel()  # from now on whoever waits for it cannot cancel it
        self._thread.start()
        return self._prepared

    def stop(self, timeout_s: float = 30.0) -> None:
        """Refuse what is unfinished and end the thread after its present step; preparing is not waited for."""
        with self._changed:
            self._stopping = True
            self.drop(lambda ticket: True, "closing", "the server is shutting down: connect again later.")
            self._changed.notify_all()
        if self._thread.is_alive() and self._prepared.done():
            self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        """True while the thread runs, and the device has not failed: no later call to it would succeed."""
        return self._thread.is_alive() and not self.is_broken

    def __len__(self) -> int:
        """Unfinished requests."""
        return len(self._open)

    @property
    def num_bytes(self) -> int:
        """Of the images of all unfinished requests."""
        with self._changed:
            return sum(ticket.request.num_bytes for ticket in self._open)

    def submit(self, ticket: Ticket) -> None:
        """Queue a request; its session's older worlds are dropped. Raises RefusedError when the queue is full."""
        with self._changed:
            if self._stopping:
                raise RefusedError("closing", "the server is shutting down: connect again later.")
            if ticket.request.reset:
                self.drop(lambda other: other.session == ticket.session, "cancelled", "the session was reset.")
            own_worlds = sum(other.session == ticket.session and other.owed == "world" for other in self._open)
            if not self._make_room(ticket, lambda: len(self._open) - own_worlds < self.max_queue):
                raise RefusedError("busy", f"queue={self.max_queue} requests are unfinished: ask again a little later.")
            if not self._make_room(ticket, lambda: self.num_bytes + ticket.request.num_bytes <= self.max_bytes):
                message = (
                    f"max_bytes={self.max_bytes} of images may wait or be in work: ask a little later, or send less."
                )
                raise RefusedError("busy", message)
            self._supersede(ticket.session)
            self._open[ticket] = None
            self._waiting.append(ticket)
            self._changed.notify_all()

    def drop(self, chosen: Callable[[Ticket], bool], rule: str, message: str) -> int:
        """Refuse what is still owed of the chosen requests. Returns how many there were."""
        with self._changed:
            tickets = [ticket for ticket in self._open if chosen(ticket)]
            for ticket in tickets:
                self._refuse(ticket, RefusedError(rule, message))
            self._changed.notify_all()
            return len(tickets)

    # --- with the lock held -----------------------------------------------------------------------------------------

    def _make_room(self, ticket: Ticket, fits: Callable[[], bool]) -> bool:
        """Let worlds of others go until this request fits; False when there are none left to go."""
        while not fits():
            if not self._give_up_a_world(ticket.session):
                return False
        return True

    def _supersede(self, session: str) -> None:
        error = RefusedError("superseded", "a newer observation of this session came.")
        for ticket in [t for t in self._open if t.session == session and t.request.world]:
            if ticket.owed == "world":
                self._refuse(ticket, error)
            else:
                ticket.world_refused = error

    def _give_up_a_world(self, session: str) -> bool:
        """Let the newest world of another session go, so that somebody's actions need not wait; False without one."""
        for ticket in reversed(self._open):
            if ticket.owed == "world" and ticket.session != session:
                self._refuse(ticket, RefusedError("busy", "the queue is full, and actions go before worlds."))
                return True
        return False

    def _refuse(self, ticket: Ticket, error: RefusedError) -> None:
        if ticket.owed is not None:
            part, ticket.owed = ticket.owed, None
            self.metrics.refusal(error.rule)
            self._close(ticket)
            ticket.deliver(Refused(part, error))

    def _close(self, ticket: Ticket) -> None:
        self._open.pop(ticket, None)
        if ticket in self._waiting:
            self._waiting.remove(ticket)

    def _next_batch(self) -> list[Ticket]:
        """The oldest waiting request and those that may share its batch, when the window is over; else none."""
        while self._waiting and not self._stopping:
            first = self._waiting[0]
            batch = [ticket for ticket in self._waiting if ticket.key == first.key][: max(self.batch_sizes)]
            left = first.arrived + self.batch_window_s - time.monotonic()
            is_full = len(batch) == max(self.batch_sizes) or len(self._waiting) >= self.robots
            if left <= 0 or is_full or first.request.is_alone:
                batch = batch[: max(size for size in self.batch_sizes if size <= len(batch))]
                for ticket in batch:
                    self._waiting.remove(ticket)
                return batch
            self._changed.wait(left)
        return []

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._prepare()
        except Exception as error:
            self._prepared.set_exception(error)
            return
        self._prepared.set_result(None)
        while True:
            with self._changed:
                while not (self._waiting or self._worlds or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    break
                batch = self._next_batch()
            try:
                if batch:
                    self.metrics.batch(len(batch), preempts=bool(self._worlds))
                    self._act(batch)
                elif self._worlds:
                    self._imagine_one_step()
            except Exception:  # our own mistake: nobody may wait for ever because of it
                LOG.exception("the worker failed")
                self._fail(list(self._open))
        for world in self._worlds:
            world.events.close()

    def _act(self, batch: list[Ticket]) -> None:
        """Actions for a batch. If it fails, each request is tried alone: one must not harm its neighbours."""
        self._drop_unwanted_worlds()
        started = time.monotonic()
        requests, answers = [ticket.request for ticket in batch], None
        try:
            events = self.policy.predict_stepwise(
                [request.observation for request in requests],
                [request.seed for request in requests],
                actions_only=not requests[0].world,
                prefixes=[request.prefix for request in requests],
                num_committed=[request.num_committed for request in requests],
            )
            answers = _next_answers(events)
        except Exception as error:
            LOG.exception("a batch of %d requests failed", len(batch))
            self.is_broken |= isinstance(error, torch.AcceleratorError)
        if answers is None:  # out here the error is gone, and with it all that the batch still held of the memory
            if len(batch) > 1:
                for ticket in batch:
                    self._act([ticket])
            else:
                self._fail(batch)
            return
        self._deliver(batch, answers, "actions", started)
        if any(ticket.owed for ticket in batch):
            self._worlds.append(World(batch, events, started))
        else:
            events.close()

    def _drop_unwanted_worlds(self) -> None:
        """Let go of what nobody waits for any more: with many robots, half-made worlds would fill the memory."""
        for world in [world for world in self._worlds if not any(ticket.owed for ticket in world.tickets)]:
            world.events.close()
            self._worlds.remove(world)

    def _imagine_one_step(self) -> None:
        self._drop_unwanted_worlds()
        if not self._worlds:
            return
        world = self._worlds[0]
        try:
            event = next(world.events)
            if self.policy.device.type == "cuda":  # else all steps would be lined up there, before anybody's actions
                torch.cuda.synchronize(self.policy.device)
        except Exception as error:
            LOG.exception("a world failed")
            self.is_broken |= isinstance(error, torch.AcceleratorError)
            self._worlds.popleft()
            self._fail(world.tickets)
            return
        self.metrics.step()
        if not isinstance(event, StepDone):
            self._worlds.popleft()
            world.events.close()
            self._deliver(world.tickets, event, "world", world.started)

    def _deliver(self, tickets: Sequence[Ticket], answers: list[Prediction], part: Part, started: float) -> None:
        now = time.monotonic()
        for ticket, prediction in zip(tickets, answers, strict=True):
            with self._changed:
                if ticket.owed != part:
                    continue
                if not np.isfinite(prediction.action).all() or not np.isfinite(prediction.state).all():
                    LOG.error("%s that are no numbers, for %r", part, ticket.request.observation.instruction)
                    self._fail([ticket])
                    continue
                goes_on = part == "actions" and ticket.request.world
                ticket.owed = "world" if goes_on else None
                self.metrics.answered(part, now - ticket.arrived)
                if not goes_on:
                    self._close(ticket)
                answer = Answer(part, prediction, now - started, started - ticket.arrived, len(tickets))
                ticket.deliver(answer)
                if goes_on and ticket.world_refused is not None:
                    self._refuse(ticket, ticket.world_refused)

    def _fail(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            for ticket in tickets:
                self._refuse(ticket, RefusedError("failed", "the server failed at this request; its log says more."))


def _next_answers(events: Generator[StepDone | list[Prediction]]) -> list[Prediction]:
    for event in events:
        if not isinstance(event, StepDone):
            return event
    raise AssertionError("a policy answers or raises")
