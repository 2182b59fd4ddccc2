"""A request on its way through the server, and what is handed to whoever waits for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from xwam_client.protocol import RefusedError

from xwam.records import Prediction
from xwam.serve.request import Request

Part = Literal["actions", "world"]


class Answer(NamedTuple):
    """One part of a request's answer."""

    part: Part
    prediction: Prediction
    infer_s: float  # computing it, what it waited for included
    queue_s: float  # before that
    batch_size: int


class Refused(NamedTuple):
    """A part that will not be answered, and why."""

    part: Part
    error: RefusedError


@dataclass(eq=False)
class Ticket:
    """A request on its way, and who waits for it (called from the worker's thread).

    ``owed`` goes actions, world, None (or actions, None); at None, answered or refused, it leaves the queue. A world
    that is superseded while its actions are still owed is only marked: the robot needs those, the refusal follows them.
    """

    request: Request
    session: str
    deliver: Callable[[Answer | Refused], None]
    arrived: float = field(default_factory=time.monotonic)
    owed: Part | None = "actions"  # None: nothing more will be delivered
    world_refused: RefusedError | None = None  # decided while the actions were still owed

    @property
    def key(self) -> tuple[object, ...]:
        """Tickets of one key may share a batch."""
        request = self.request
        return (request.world, request.steered, id(self) if request.is_alone else None)
