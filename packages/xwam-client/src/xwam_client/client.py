"""A robot's side of the wire: connect, be sure that server and robot mean the same, ask, get actions.

A thread of its own reads what comes, and connects again whenever the connection is lost; another one sends. ``ask``
returns at once with futures, however slow the network is; ``infer`` waits. A server that does not fit the robot is
refused before anything moves.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any, Callable, NamedTuple

import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from xwam_client.agreement import MismatchError, check, field_of, offer_of
from xwam_client.protocol import DEFAULT_PORT, PAUSE_S, RefusedError, may_pass, packb, unpackb

CALIBRATION = ("width", "height", "intrinsics", "base_from_camera", "hand_from_camera", "hand")
CALIBRATION += ("near_m", "far_m", "depth_at")
LONGEST_PAUSE_S = 2.0  # between two attempts to connect
# For one attempt to connect at most; for a good-bye; a question not sent for so long gives way to a newer one.
OPEN_S, CLOSE_S, STALE_S = 10.0, 1.0, 0.1
MOST_UNTOLD = 4  # worlds that wait until somebody has looked at those before; they are some megabytes each
# Since websockets 15 it goes through the environment's proxy, even to 127.0.0.1; before it knows none.
NO_PROXY = dict.fromkeys({"proxy"} & set(connect.__kwdefaults__ or ()))


class Observation(NamedTuple):
    """What the robot sees now, in the units of the layout. xwam's own ``Observation`` serves as well."""

    images: Mapping[str, np.ndarray]  # H W 3, uint8, RGB
    state: np.ndarray
    instruction: str
    cameras: Mapping[str, Any] | None = None  # calibrations that differ from the checkpoint's, by camera


class Request(NamedTuple):
    """One question that was sent, and the answers that will come. ``world`` is None where it was not asked for."""

    id: int
    actions: Future
    world: Future | None


class Client(contextlib.AbstractContextManager):
    """One robot's connection. Safe to use from several threads; use it in a ``with`` block."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = DEFAULT_PORT, *,
        robot: Any | None = None, api_key: str | None = None, connect_seconds: float = 60.0,
    ) -> None:  # fmt: skip
        """Waits for the server; ``robot`` is checked on every connection. Raises ConnectionError or MismatchError.

        ``host`` may be a whole address (``wss://name/path``): a server behind a reverse proxy. ``port`` is then unused.
        """
        self.metadata: dict[str, Any] = {}
        name = f"[{host}]" if host.count(":") > 1 else host  # an address of IPv6
        self.uri, self.connect_seconds = host if "://" in host else f"ws://{name}:{port}", connect_seconds
        self.session_id = uuid.uuid4().hex
        self._how: dict[str, Any] = dict(NO_PROXY, open_timeout=min(OPEN_S, connect_seconds), close_timeout=CLOSE_S)
        self._how["additional_headers"] = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._offer, self._ids, self._pending = robot and offer_of(robot), itertools.count(1), {}
        self._lock, self._ready = threading.Lock(), threading.Event()
        self._connection, self._fatal, self._trouble = None, None, ConnectionError(f"{self.uri}: no answer")
        self._unsent: dict[int, tuple[float, bytes]] = {}  # by number: since when it waits, and the message
        self._numbers: queue.SimpleQueue = queue.SimpleQueue()  # of them, in order; None: no more
        # Whoever looks at a world must not hold up the actions. What was handed over, and is not looked at yet:
        self._telling, self._untold = ThreadPoolExecutor(1, "xwam-worlds"), []
        self._sender = threading.Thread(target=self._speak, name="xwam-questions", daemon=True)
        self._sender.start()
        threading.Thread(target=self._run, name="xwam-client", daemon=True).start()
        try:
            self._wait_until_ready(time.monotonic() + connect_seconds)
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, robot: Any) -> None:
        """Compare with the server at hand, and with every later one. Raises MismatchError."""
        self._offer = check(self.metadata, offer_of(robot))

    def ask(
        self, observation: Any, *, seed: int | None = None, prefix: np.ndarray | None = None,
        num_committed: int | None = None, world: bool = False, world_format: str = "jpeg",
    ) -> Request:  # fmt: skip
        """Line up to be sent, and return at once. The futures raise RefusedError, or ConnectionError when it is lost.

        What could not be sent yet gives way to a newer question (rule ``superseded``) when the network is that slow.
        ``prefix``, ``num_committed``: what the robot still plays (protocol.py). ``add_done_callback`` of the future
        ``world`` is the way to be told (in a thread for worlds alone) when the imagined world has come;
        ``protocol.decode_world`` unpacks it. Raises ValueError for a message that is larger than the server reads.
        """
        images = {c["name"]: np.asarray(observation.images[c["name"]]) for c in self.metadata["cameras"]}
        message = {"images": images, "state": np.asarray(observation.state), "prompt": observation.instruction}
        known = getattr(observation, "cameras", None) or {}
        cameras = {n: {k: field_of(known[n], k, None) for k in CALIBRATION} for n in images if n in known}
        message.update(session_id=self.session_id, cameras=cameras or None, seed=seed, prefix=prefix)
        message.update(num_committed=num_committed, world=world or None, world_format=world_format if world else None)
        return self._send({key: value for key, value in message.items() if value is not None}, world)

    def infer(self, observation: Any, **asked: Any) -> np.ndarray:
        """The next actions ``Ta Da``, in the robot's units. Connects again and asks again when it must.

        Raises RefusedError, or after ``connect_seconds`` ConnectionError.
        """
        return self._answer_to(lambda: self.ask(observation, **asked))["actions"]

    def cancel(self, request: Request) -> None:
        """Drop what is unfinished of a request: its futures are refused with the rule ``cancelled``."""
        self._send({"cancel": request.id}, False)

    def reset(self) -> None:
        """A new episode begins: drop all unfinished work of this robot. Waits for the answer."""
        self._answer_to(lambda: self._send({"reset": True, "session_id": self.session_id}, False))

    def close(self) -> None:
        """Close the connection; what is pending fails with ConnectionError. Takes ``CLOSE_S`` at most."""
        self._fatal = self._fatal or ConnectionError(f"connection to {self.uri} was closed by this client.")
        self._numbers.put(None)
        self._sender.join(CLOSE_S)
        if connection := self._connection:
            with contextlib.suppress(OSError):  # at once, also while something is being sent
                connection.socket.shutdown(socket.SHUT_RDWR)
        self._lose()
        self._telling.shutdown(wait=False)

    def _answer_to(self, ask: Callable[[], Request]) -> Any:
        """What comes of a question; it is put again as long as that may help."""
        deadline = time.monotonic() + self.connect_seconds
        while True:
            self._wait_until_ready(deadline)
            try:
                return ask().actions.result(deadline - time.monotonic())
            except TimeoutError as error:
                raise ConnectionError(f"no answer from {self.uri} within {self.connect_seconds:g} s.") from error
            except (ConnectionError, RefusedError) as error:
                if not may_pass(error) or time.monotonic() + PAUSE_S > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _send(self, message: dict[str, Any], world: bool) -> Request:
        """Line up a message; questions that wait there for too long give way to it."""
        request, now = Request(next(self._ids), Future(), Future() if world else None), time.monotonic()
        data = packb(dict(message, request_id=request.id))
        most = self.metadata.get("limits", {}).get("message_bytes", math.inf)
        if len(data) > most:
            raise ValueError(f"message of {len(data)} bytes: {self.uri} reads {most} at most; send smaller pictures.")
        self._pending[request.id] = request
        with self._lock:
            error, lost = self._fatal or self._trouble, [request.id]
            if self._fatal is None and self._ready.is_set():
                error = RefusedError("superseded", f"not sent within {STALE_S} s, and a newer question came.")
                lost = [number for number, (since, _) in self._unsent.items() if now - since > STALE_S]
                self._unsent[request.id] = (now if "images" in message else math.inf, data)
                self._numbers.put(request.id)
        self._fail(lost, error)
        return request

    def _speak(self) -> None:
        """Send what is lined up, and at last good-bye. A slow network holds up this thread alone."""
        for number in iter(self._numbers.get, None):
            with self._lock:
                connection, (_, data) = self._connection, self._unsent.pop(number, (0.0, b""))
            with contextlib.suppress(WebSocketException, OSError):  # the reader hears of it, and connects again
                if connection and data:
                    connection.send(data)
        if connection := self._connection:
            connection.close()

    def _wait_until_ready(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if not self._ready.wait(max(0.0, left)) or self._fatal is not None or left < 0:
            raise self._fatal or ConnectionError(f"no xwam server at {self._trouble}. Is it up, warm, open (--host)?")

    def _run(self) -> None:
        """Connect, read until the connection ends, again; with growing pauses while nobody answers."""
        pause = PAUSE_S
        while self._fatal is None:
            try:
                with connect(self.uri, compression=None, max_size=None, **self._how) as self._connection:
                    with contextlib.suppress(OSError, AttributeError):  # Linux ends it when nothing gets through
                        limit_ms = int(1000 * min(self.connect_seconds, 1e6))
                        self._connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
                    first = self._connection.recv(self.connect_seconds)
                    if isinstance(first, str):
                        raise RefusedError("failed", first)
                    self.metadata = unpackb(first)
                    check(self.metadata, self._offer)
                    pause = PAUSE_S
                    self._ready.set()
                    for frame in self._connection if self._fatal is None else ():
                        self._dispatch(frame)
            except (WebSocketException, OSError, RefusedError) as error:
                self._trouble = ConnectionError(f"{self.uri}: {str(error) or type(error).__name__}")
                if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
                    self._fatal = ConnectionError(f"{self.uri} refuses this api_key: {error}")
            except Exception as error:  # a mismatch, an address that is none, or what would leave a dead reader
                self._fatal = error if isinstance(error, MismatchError) else ValueError(f"{self.uri}: {error!r}")
            self._lose()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _dispatch(self, frame: bytes | str) -> None:
        """Hand a message to whoever waits for it."""
        if isinstance(frame, str):
            self._fail(list(self._pending), RefusedError("failed", frame))
            return
        message = unpackb(frame)
        # A request that was given up has futures for which nobody waits.
        request, kind = self._pending.get(message.get("request_id"), Request(0, Future(), None)), message["type"]
        is_refused, is_world = kind == "refusal", message.get("part", kind) == "world"
        answer = RefusedError(message["rule"], message["message"]) if is_refused else message
        if is_world or is_refused or request.world is None:  # without actions there is no world either
            self._pending.pop(request.id, None)
        if not is_world:
            _settle(request.actions, answer)
        self._untold = [told for told in self._untold if not told.done()]
        if is_world and not is_refused and len(self._untold) >= MOST_UNTOLD:
            answer = RefusedError("superseded", f"{MOST_UNTOLD} worlds that came before are still being looked at.")
        if is_world or is_refused:
            told = self._telling.submit(_settle, request.world, answer)
            self._untold += [] if isinstance(answer, RefusedError) else [told]

    def _lose(self) -> None:
        with self._lock:
            self._ready.clear()
        self._fail(list(self._pending), self._fatal or self._trouble)
        self._connection = None
        if self._fatal is not None:
            self._ready.set()  # nobody shall wait any longer

    def _fail(self, numbers: list[int], error: Exception) -> None:
        for number in numbers:
            with self._lock:
                request, _ = self._pending.pop(number, None), self._unsent.pop(number, None)
            _settle(request and request.world, error)
            _settle(request and request.actions, error)


def _settle(future: Future | None, value: Any) -> None:
    """Set a future's value or error, unless its owner has given it up."""
    if future is not None and not future.done() and future.set_running_or_notify_cancel():
        (future.set_exception if isinstance(value, Exception) else future.set_result)(value)
