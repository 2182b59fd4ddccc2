"""What one robot and the server say to each other: hear, queue, answer; actions before worlds here too.

``converse`` takes an iterator of incoming messages and a function that sends one: ``server.py`` gives it websockets,
``ray_serve.py`` what Ray Serve has.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any

from xwam_client.protocol import RefusedError, packb

from xwam.serve.messages import acknowledgement, actions_message, refusal, world_message
from xwam.serve.request import Request, RequestId, read_id, read_request, read_session
from xwam.serve.service import Service
from xwam.serve.ticket import Answer, Part, Refused, Ticket
from xwam.serve.wire import read_message

LOG = logging.getLogger("xwam.serve")
MAX_UNSENT = 16  # messages; beyond it nothing more is read from a robot that does not listen
SOON, LATER = 0, 1  # worlds wait for actions in the sending queue as well
NUMBERS = itertools.count()  # one for each connection while the process runs


async def converse(
    service: Service, messages: AsyncIterable[bytes | str], send: Callable[[bytes | str], Awaitable[Any]]
) -> None:
    """One robot, from metadata to good-bye. Errors of the transport end it and are raised."""
    conversation = Conversation(service, next(NUMBERS), send)
    service.worker.robots += 1
    try:
        await send(packb(service.metadata))
        await conversation.hold(messages)
    finally:
        service.worker.robots -= 1
        conversation.close()


class Conversation:
    """One connection. ``number`` names it while the server runs."""

    def __init__(self, service: Service, number: int, send: Callable[[bytes | str], Awaitable[Any]]) -> None:
        self.service, self.number, self._send = service, number, send
        self._loop = asyncio.get_running_loop()
        self._pending: dict[RequestId, Ticket] = {}
        self._being_packed: set[Ticket] = set()  # worlds count until they are packed, also when a reset freed their ids
        self._unsent: asyncio.PriorityQueue[tuple[int, int, bytes | str, float | None]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._taken = asyncio.Event()
        self._packing: set[asyncio.Task[None]] = set()
        self._previous_ms: float | None = None
        self._told: set[str] = set()  # parts of the state of which it was said that they are unusual
        self._is_closed = False

    async def hold(self, messages: AsyncIterable[bytes | str]) -> None:
        """Listen and speak at the same time, until either ends."""
        tasks = {asyncio.create_task(self._listen(messages)), asyncio.create_task(self._speak())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def close(self) -> None:
        """Nobody is there any more: drop what was asked."""
        self._is_closed = True
        mine = set(self._pending.values())
        self.service.worker.drop(lambda ticket: ticket in mine, "cancelled", "the connection is closed.")

    async def _listen(self, messages: AsyncIterable[bytes | str]) -> None:
        async for data in messages:
            self._hear(data)
            while self._unsent.qsize() > MAX_UNSENT:
                self._taken.clear()
                await self._taken.wait()
            await asyncio.sleep(0)  # a flood of messages leaves room for the other robots

    async def _speak(self) -> None:
        while True:
            _, _, data, arrived = await self._unsent.get()
            self._taken.set()
            async with asyncio.timeout(self.service.config.send_timeout_s):
                await self._send(data)
            if arrived is not None:
                self._previous_ms = 1000 * (time.monotonic() - arrived)

    def _hear(self, data: bytes | str) -> None:
        """One message. Whatever is wrong with it is answered; nothing ends the conversation."""
        request_id, session_id = None, None
        try:
            message = read_message(data)
            request_id = read_id(message)  # first: what else is wrong is then answered to it
            session_id = read_session(message)
            if "cancel" in message:
                self._cancel(message, request_id)
            elif message.get("reset") is True and message.keys() <= {"reset", "session_id", "request_id"}:
                self._reset(request_id, session_id)
            else:
                self._admit(read_request(message, self.service.policy))
        except RefusedError as error:
            self._refuse(request_id, session_id, error)
        except Exception:
            LOG.exception("connection %d: a message could not be read", self.number)
            self._refuse(request_id, session_id, RefusedError("failed", "the server failed at this message."))

    def _admit(self, request: Request) -> None:
        config, key, session = self.service.config, request.request_id, self._session(request.session_id)
        for part, text in self.service.policy.normalizer.unusual(request.observation.state).items():
            if part not in self._told:
                self._told.add(part)
                LOG.warning("connection %d: %s", self.number, text)
        if request.reset:  # what it drops must not stand in its way
            self._drop(session)
        if key in self._pending:
            reason = "is pending already" if key is not None else "several requests at once need one each"
            raise RefusedError("out_of_range", f"request_id={key!r}: {reason}.")
        if len({*self._pending.values(), *self._being_packed}) >= config.per_connection:
            raise RefusedError("busy", f"per_connection={config.per_connection} requests are unfinished: wait for one.")
        ticket = Ticket(request, session, lambda event: self._tell(ticket, event))
        self._pending[key] = ticket
        try:
            self.service.worker.submit(ticket)
        except RefusedError:
            del self._pending[key]
            raise

    def _cancel(self, message: Mapping[str, Any], request_id: RequestId) -> None:
        if not message.keys() <= {"cancel", "request_id", "session_id"}:
            raise RefusedError("unknown_key", "cancel: stands alone, without an observation.")
        wanted = read_id(message, "cancel")
        ticket = self._pending.get(wanted)
        chosen = self.service.worker.drop(lambda other: other is ticket, "cancelled", "the robot cancelled it.")
        reply = acknowledgement("cancelled", wanted if request_id is None else request_id, found=chosen > 0)
        # Behind the refusal, which comes through the loop as answers do.
        self._loop.call_soon(self._put, SOON, reply)

    def _reset(self, request_id: RequestId, session_id: str | None) -> None:
        self._drop(self._session(session_id))
        self._loop.call_soon(self._put, SOON, acknowledgement("reset", request_id, session_id))

    def _drop(self, session: str) -> None:
        self.service.worker.drop(lambda ticket: ticket.session == session, "cancelled", "the session was reset.")
        self._pending = {key: ticket for key, ticket in self._pending.items() if ticket.session != session}

    def _session(self, session_id: str | None) -> str:
        return f"connection {self.number}" if session_id is None else f"session {session_id}"

    def _tell(self, ticket: Ticket, event: Answer | Refused) -> None:
        """Called from any thread."""
        self._loop.call_soon_threadsafe(self._take, ticket, event)

    def _take(self, ticket: Ticket, event: Answer | Refused) -> None:
        request = ticket.request
        if isinstance(event, Refused) or not request.world:  # a world counts until it is packed
            self._settled(ticket)
        if self._is_closed:
            return
        if isinstance(event, Refused):
            self._put(SOON, refusal(request.request_id, request.session_id, event.part, event.error))
        elif event.part == "actions":
            self._put(SOON, actions_message(request, event, self._previous_ms), ticket.arrived)
        else:
            self._being_packed.add(ticket)
            task = asyncio.create_task(self._pack_world(ticket, event))
            self._packing.add(task)
            task.add_done_callback(self._packing.discard)

    def _settled(self, ticket: Ticket) -> None:
        """Its id is free again, unless a reset has freed it and somebody else has it now."""
        self._being_packed.discard(ticket)
        if self._pending.get(ticket.request.request_id) is ticket:
            del self._pending[ticket.request.request_id]

    async def _pack_world(self, ticket: Ticket, answer: Answer) -> None:
        request = ticket.request
        try:
            data = await self._loop.run_in_executor(self.service.packing, self._packed, request, answer)
        except Exception:
            LOG.exception("connection %d: a world could not be packed", self.number)
            error = RefusedError("failed", "the server failed to pack this world.")
            data = refusal(request.request_id, request.session_id, "world", error)
        finally:
            self._settled(ticket)
        self._put(LATER, data)

    def _packed(self, request: Request, answer: Answer) -> bytes:
        """In the packing thread; nothing for a robot that has left."""
        policy = self.service.policy
        return b"" if self._is_closed else world_message(request, answer, policy.layout, policy.absent)

    def _refuse(
        self, request_id: RequestId, session_id: str | None, error: RefusedError, part: Part = "actions"
    ) -> None:
        self.service.metrics.refusal(error.rule)
        self._put(SOON, refusal(request_id, session_id, part, error))

    def _put(self, when: int, data: bytes | str, arrived: float | None = None) -> None:
        self._unsent.put_nowait((when, next(self._order), data, arrived))
