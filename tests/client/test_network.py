"""Networks that are slow, stuck or cut, and servers that answer strangely: whoever drives a robot is never held up."""

import contextlib
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve
from xwam_client.client import Client, Observation
from xwam_client.protocol import PROTOCOL, RefusedError, packb, unpackb
from xwam_client.rollout import rollout

from tests.client.mock_robot import MockRobot
from tests.serve.conftest import CONFIG, until

METADATA = {"protocol": PROTOCOL, "cameras": [{"name": "front"}]}
SMALL = Observation({"front": np.zeros((8, 8, 3), np.uint8)}, np.zeros(3, np.float32), "wave")
LARGE = SMALL._replace(images={"front": np.zeros((1080, 1920, 3), np.uint8)})
ACTIONS = {"type": "actions", "actions": np.ones((4, 2), np.float32)}


@contextlib.contextmanager
def serving(converse, **how):
    """The port of a server that says what it is, and then does as ``converse(connection)`` does."""

    def begin(connection):
        with contextlib.suppress(ConnectionClosed):
            connection.send(packb(METADATA))
            converse(connection)

    with serve(begin, "127.0.0.1", 0, max_size=None, **how) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.socket.getsockname()[1]
        server.shutdown()


@contextlib.contextmanager
def deaf():
    """The port of a server that reads no more than it must, and the connections it has had."""
    over, begun = threading.Event(), []

    def converse(connection):
        begun.append(connection)
        over.wait(60)

    with serving(converse, max_queue=1, close_timeout=0.1) as port:
        yield port, begun
        over.set()


class Relay:
    """A line to a server that can be cut: then nothing gets through, and nothing says so."""

    def __init__(self, port: int) -> None:
        self._server, self._is_open, self._sockets = ("127.0.0.1", port), threading.Event(), []
        self._is_open.set()
        self._door = socket.socket()
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._door.bind(("127.0.0.1", 0))
        self._door.listen()
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = self._door.accept()[0], socket.create_connection(self._server)
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self._is_open.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self._is_open.clear()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_) -> None:
        for one in (self._door, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # whoever reads or writes it wakes up
            one.close()
        self._is_open.set()


def within(seconds: float, work):
    """What ``work`` returns; fails when it takes longer."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still at it after {seconds} s"
    return found[0]


def test_whoever_asks_does_not_wait_for_a_network_that_is_stuck():
    with deaf() as (port, _):
        client = Client(port=port, connect_seconds=30)

        def ask():
            began = time.monotonic()
            request = client.ask(LARGE)
            time.sleep(0.05)
            return request, time.monotonic() - began

        asked = within(20, lambda: [ask() for _ in range(20)])
        assert np.median([took for _, took in asked]) < 0.2
        requests = [request for request, _ in asked]
        assert len(client._unsent) < 6, "pictures do not pile up"
        given_up = [r for r in requests if r.actions.done()]
        assert len(given_up) > 5
        assert {r.actions.exception(0).rule for r in given_up} == {"superseded"}
        assert not requests[-1].actions.done(), "the newest one waits"
        within(3, client.close)
        assert isinstance(requests[-1].actions.exception(0), ConnectionError)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux ends such connections by itself")
def test_a_connection_on_which_nothing_gets_through_is_lost_and_made_anew():
    with deaf() as (port, begun), Client(port=port, connect_seconds=1) as client:
        for _ in range(2):
            last = [client.ask(LARGE) for _ in range(8)][-1]
            assert isinstance(last.actions.exception(20), ConnectionError)
            client._wait_until_ready(time.monotonic() + 10)
        assert until(lambda: len(begun) == 3), "a server says who it is before its conversation begins"


class Timed(MockRobot):
    """Has large pictures, notes when it is told anything, and calls ``then`` after its fifth action."""

    def __init__(self, *about, then) -> None:
        super().__init__(*about)
        self.told, self.held, self.then = [], 0, then

    def observe(self):
        images = {name: np.zeros((720, 1280, 3), np.uint8) for name in self.cameras}
        return replace(super().observe(), images=images)

    def step(self, action) -> bool:
        self.told.append(time.monotonic())
        if len(self.told) == 5:
            self.then()
        return super().step(action)

    def hold(self) -> None:
        self.told.append(time.monotonic())
        self.held += 1


@pytest.mark.filterwarnings("ignore:camera .* are squeezed")
@pytest.mark.parametrize("play", ["wait", "overlap", "realtime"])
def test_a_robot_whose_network_is_cut_plays_on_then_holds_then_is_told(server, policy, play):
    with Relay(server.port) as relay, Client(port=relay.port, connect_seconds=4) as client:
        robot = Timed(CONFIG, policy.layout, then=relay.cut)

        def play_it():
            with pytest.raises(ConnectionError):
                rollout(robot, client, seed=2, play=play, replan_every=6, max_steps=100_000)
            return time.monotonic()

        ended = within(30, play_it)
        assert len(robot.played) == (6 if play == "wait" else CONFIG.clip.action_horizon)
        gaps = np.diff(robot.told)
        assert np.median(gaps) < 2 / CONFIG.clip.action_hz, "the control loop goes on"
        assert gaps.max() < 1
        assert robot.held >= CONFIG.clip.action_hz
        assert ended - robot.told[-robot.held] < 9
        within(3, client.close)


def test_closing_takes_a_second_at_most_whatever_the_other_end_does(server):
    with Relay(server.port) as relay:
        client = Client(port=relay.port)
        relay.cut()
        within(3, client.close)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # answers no handshake
        port = mute.getsockname()[1]

        def dial():
            with pytest.raises(ConnectionError, match="no xwam server"):
                Client(port=port, connect_seconds=0.3)
            return True

        within(4, dial)


def test_the_environments_proxy_is_not_asked(server, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Client(port=server.port, connect_seconds=5) as client:
        assert client.metadata["protocol"] == PROTOCOL


def answering(*answers):
    """A conversation that gives these answers, one per question, and then actions; and the questions it has heard."""
    left, heard = list(answers), []

    def converse(connection):
        for frame in connection:
            heard.append(unpackb(frame))
            answer = left.pop(0) if left else ACTIONS
            connection.send(packb({"request_id": heard[-1]["request_id"], **answer}))

    return converse, heard


def refused(rule: str) -> dict:
    return {"type": "refusal", "part": "actions", "rule": rule, "message": f"{rule}: not now."}


def test_a_question_is_put_again_to_a_server_that_cannot_just_now():
    converse, heard = answering(refused("busy"), refused("closing"), ACTIONS, refused("closing"))
    with serving(converse) as port, Client(port=port, connect_seconds=20) as client:
        np.testing.assert_array_equal(client.infer(SMALL), ACTIONS["actions"])
        client.reset()
    assert ["images" in question for question in heard] == [True, True, True, False, False]


def test_what_does_not_pass_is_raised():
    converse, heard = answering(refused("absurd_state"), *[refused("busy")] * 100)
    with serving(converse) as port, Client(port=port, connect_seconds=0.5) as client:
        with pytest.raises(RefusedError, match="absurd_state"):
            client.infer(SMALL)
        assert len(heard) == 1
        with pytest.raises(RefusedError, match="busy: not now"):
            client.infer(SMALL)
        assert 2 < len(heard) < 8, "not in a hurry"


def test_an_answer_that_nobody_foresaw_ends_the_client_in_words():
    converse, _ = answering({"note": "no type"})
    with serving(converse) as port, Client(port=port, connect_seconds=20) as client:
        question = client.ask(SMALL)
        assert "KeyError('type')" in str(question.actions.exception(10))
        with pytest.raises(ValueError, match=r"ws://127.0.0.1:\d+: KeyError"):
            client.infer(SMALL)
