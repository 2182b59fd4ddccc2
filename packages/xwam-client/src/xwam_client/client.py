"""A robot's side of the wire: connect, be sure that server and robot mean the same, ask, get actions.

A thread of its own reads what comes, and connects again whenever the connection is lost. ``ask`` returns at once with
futures, ``infer`` waits. A server that does not fit the robot is refused before anything moves.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any, NamedTuple

import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from xwam_client.protocol import DEFAULT_PORT, PROTOCOL, RefusedError, packb, unpackb

COMPARED = ("name", "kind", "size", "unit", "frame", "is_used")  # of a part; its scaling is the model's own affair
COMPARED_UNUSED = ("name", "size", "is_used")  # of a part that the robot does not have
CALIBRATION = ("width", "height", "intrinsics", "base_from_camera", "hand_from_camera", "hand", "near_m", "far_m")
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0  # between two attempts to connect


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


class MismatchError(ValueError):
    """Server and robot do not mean the same; nothing has moved."""


def offer_of(robot: Any) -> dict[str, Any]:
    """What a robot offers: anything with ``cameras`` (names), ``action_hz`` and ``layout``, as an ``Env`` has them.

    A layout and its parts are objects or maps. Raises ValueError when something is not there.
    """
    try:
        return {"cameras": list(robot.cameras), **_meaning(robot)}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"robot={type(robot).__name__}: cameras, action_hz or layout is not as needed: {error}"
        ) from error


def check(metadata: Mapping[str, Any], offer: dict[str, Any] | None) -> dict[str, Any] | None:
    """The offer itself. Raises MismatchError, naming everything in which it differs from what the server needs."""
    if metadata.get("protocol") != PROTOCOL:
        raise MismatchError(f"protocol={metadata.get('protocol')!r}: this client speaks {PROTOCOL!r}.")
    if offer is None:
        return None
    missing = [c["name"] for c in metadata["cameras"] if c["name"] not in offer["cameras"]]
    wrong = [f"cameras={offer['cameras']}: the model also needs {missing}"] if missing else []
    theirs = _meaning(metadata)
    wrong += [f"{k}={offer[k]!r}: the model has {theirs[k]!r}" for k in theirs if offer.get(k, theirs[k]) != theirs[k]]
    if wrong:
        raise MismatchError(f"{'; '.join(wrong)}. Nothing was moved: use a checkpoint made for this robot.")
    return offer


def _meaning(side: Any) -> dict[str, Any]:
    """All that server and robot must agree on, by name."""
    facts: dict[str, Any] = {"action_hz": round(float(_get(side, "action_hz")), 6)}
    for which in ("state", "action"):
        parts = _get(_get(side, "layout"), which)
        facts[f"{which} parts"] = [_get(part, "name") for part in parts]
        for part in parts:
            keys = COMPARED if _get(part, "is_used") else COMPARED_UNUSED
            facts.update({f"{which} {_get(part, 'name')} {key}": _get(part, key) for key in keys})
    return facts


def _get(found: Any, name: str) -> Any:
    return found[name] if isinstance(found, Mapping) else getattr(found, name)


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
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._offer, self._ids, self._pending = robot and offer_of(robot), itertools.count(1), {}
        self._lock, self._ready, self._closed = threading.Lock(), threading.Event(), threading.Event()
        self._socket, self._fatal, self._trouble = None, None, "no answer"
        self._telling = ThreadPoolExecutor(1, "xwam-worlds")  # whoever looks at a world must not hold up the actions
        self._thread = threading.Thread(target=self._run, name="xwam-client", daemon=True)
        self._thread.start()
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
        """Send and return at once. The futures raise RefusedError, or ConnectionError when the connection is lost.

        ``prefix``, ``num_committed``: what the robot still plays (protocol.py). ``add_done_callback`` of the future
        ``world`` is the way to be told (in a thread for worlds alone) when the imagined world has come;
        ``protocol.decode_world`` unpacks it. Raises ValueError for a message that is larger than the server reads.
        """
        images = {c["name"]: np.asarray(observation.images[c["name"]]) for c in self.metadata["cameras"]}
        message = {"images": images, "state": np.asarray(observation.state), "prompt": observation.instruction}
        known = getattr(observation, "cameras", None) or {}
        message["cameras"] = {
            n: {k: getattr(known[n], k, None) for k in CALIBRATION} for n in images if n in known
        } or None
        message.update(session_id=self.session_id, seed=seed, prefix=prefix, num_committed=num_committed)
        if world:
            message.update(world=True, world_format=world_format)
        return self._send({key: value for key, value in message.items() if value is not None}, world)

    def infer(self, observation: Any, **asked: Any) -> np.ndarray:
        """The next actions ``Ta Da``, in the robot's units. Connects again and asks again when it must.

        Raises ConnectionError, or concurrent.futures.TimeoutError when no answer comes, after ``connect_seconds``.
        """
        deadline = time.monotonic() + self.connect_seconds
        while True:
            self._wait_until_ready(deadline)
            try:
                return self.ask(observation, **asked).actions.result(deadline - time.monotonic())["actions"]
            except ConnectionError:
                continue
            except TimeoutError as error:
                raise type(error)(f"no answer from {self.uri} within {self.connect_seconds:g} s.") from error

    def cancel(self, request: Request) -> None:
        """Drop what is unfinished of a request: its futures are refused with the rule ``cancelled``."""
        self._transmit({"cancel": request.id})

    def reset(self) -> None:
        """A new episode begins: drop all unfinished work of this robot. Waits for the answer."""
        self._wait_until_ready(time.monotonic() + self.connect_seconds)
        self._send({"reset": True, "session_id": self.session_id}, False).actions.result(self.connect_seconds)

    def close(self) -> None:
        """Close the connection; what is pending fails with ConnectionError."""
        self._closed.set()
        if self._socket is not None:
            self._socket.close()
        self._thread.join()
        self._telling.shutdown(wait=False)

    def _send(self, message: dict[str, Any], world: bool) -> Request:
        request = Request(next(self._ids), Future(), Future() if world else None)
        with self._lock:
            self._pending[request.id] = request
        try:
            self._transmit(dict(message, request_id=request.id))
        except ConnectionError as error:
            self._fail_all(error)
        except ValueError:
            self._pending.pop(request.id, None)
            raise
        return request

    def _transmit(self, message: dict[str, Any]) -> None:
        socket = self._socket
        if socket is None:
            raise self._fatal or ConnectionError(f"not connected to {self.uri}: {self._trouble}")
        data, most = packb(message), self.metadata.get("limits", {}).get("message_bytes", math.inf)
        if len(data) > most:
            raise ValueError(f"message of {len(data)} bytes: {self.uri} reads {most} at most; send smaller pictures.")
        try:
            socket.send(data)
        except (WebSocketException, OSError) as error:
            raise ConnectionError(f"connection to {self.uri} lost: {error}") from error

    def _wait_until_ready(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if not self._ready.wait(max(0.0, left)) or self._fatal is not None or left < 0:
            raise self._fatal or ConnectionError(
                f"no xwam server at {self.uri}: {self._trouble}. Is it up, is it warm?"
            )

    def _run(self) -> None:
        """Connect, read until the connection ends, again; with growing pauses while nobody answers."""
        pause = 0.0
        while self._fatal is None and not self._closed.wait(pause):
            pause = min(2 * pause, LONGEST_PAUSE_S) or SHORTEST_PAUSE_S
            try:
                with connect(self.uri, compression=None, max_size=None, additional_headers=self._headers) as socket:
                    first = socket.recv(self.connect_seconds)
                    if isinstance(first, str):
                        raise RefusedError("failed", first)
                    self.metadata = unpackb(first)
                    check(self.metadata, self._offer)
                    self._socket, pause = socket, SHORTEST_PAUSE_S
                    self._ready.set()
                    for frame in () if self._closed.is_set() else socket:
                        self._dispatch(frame)
            except (WebSocketException, OSError, RefusedError) as error:
                self._trouble = str(error) or type(error).__name__
                if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
                    self._fatal = ConnectionError(f"{self.uri} refuses this api_key: {error}")
            except ValueError as error:  # a mismatch, or an address that is none
                self._fatal = error if isinstance(error, MismatchError) else ValueError(f"{self.uri}: {error}")
            self._lose(self._fatal or ConnectionError(f"connection to {self.uri} lost: {self._trouble}"))
        self._fatal = self._fatal or ConnectionError(f"connection to {self.uri} was closed by this client.")
        self._lose(self._fatal)
        self._ready.set()  # nobody shall wait any longer

    def _dispatch(self, frame: bytes | str) -> None:
        """Hand a message to whoever waits for it."""
        if isinstance(frame, str):
            self._fail_all(RefusedError("failed", frame))
            return
        message = unpackb(frame)
        request, kind = self._pending.get(message.get("request_id")), message["type"]
        if request is None or kind == "cancelled":
            return
        is_refused, is_world = kind == "refusal", message.get("part", kind) == "world"
        answer = RefusedError(message["rule"], message["message"]) if is_refused else message
        if is_world or is_refused or request.world is None:  # without actions there is no world either
            self._pending.pop(request.id, None)
        if not is_world:
            _settle(request.actions, answer)
        if is_world or is_refused:
            self._telling.submit(_settle, request.world, answer)

    def _lose(self, error: Exception) -> None:
        self._ready.clear()
        self._socket = None
        self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            lost, self._pending = list(self._pending.values()), {}
        for request in lost:
            _settle(request.world, error)
            _settle(request.actions, error)


def _settle(future: Future | None, value: Any) -> None:
    """Set a future's value or error, unless its owner has given it up."""
    if future is not None and not future.done() and future.set_running_or_notify_cancel():
        (future.set_exception if isinstance(value, Exception) else future.set_result)(value)
