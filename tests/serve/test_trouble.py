"""Robots that lie, flood, die and hang: the server refuses, forgets them, and serves the others all the while."""

import asyncio
import contextlib
import gc
import http.client
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading

import msgpack
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from xwam_client.protocol import packb

from tests.serve.conftest import CONFIG, Running, ask, hear, message, until
from xwam.serve.conversation import MAX_UNSENT, converse
from xwam.serve.service import ServeConfig, Service, load_service
from xwam.serve.wire import LIMITS

NUM_FUZZED = 3000
BURST = 10  # messages sent before their answers are read


def resident_mb() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def odd_value(rng: np.random.Generator, depth: int = 0):
    """Anything msgpack can say, and numpy maps that lie."""
    kind = rng.integers(0, 14 if depth < 4 else 9)
    if kind < 6:
        return [None, True, -1, 2**64 - 1, float("nan"), "word" * int(rng.integers(0, 50))][kind]
    if kind == 6:
        return rng.bytes(int(rng.integers(0, 100)))
    if kind == 7:
        return msgpack.ExtType(int(rng.integers(0, 127)), b"x")
    if kind == 8:
        return {b"__npgeneric__": True, b"data": 2**40, b"dtype": rng.choice(["|u1", "<f4", "|O", "<U9"]).item()}
    if kind == 9:
        shape = [int(size) for size in rng.choice([-1, 0, 1, 3, 2**31, 2**62], size=rng.integers(0, 5))]
        dtype = rng.choice(["<f4", "|u1", ">f8", "|O", "|V8", "M8[s]", "", "f4,f4"]).item()
        return {b"__ndarray__": True, b"data": rng.bytes(12), b"dtype": dtype, b"shape": shape}
    if kind == 10:
        return [odd_value(rng, depth + 1) for _ in range(int(rng.integers(0, 5)))]
    if kind == 11:
        return {rng.choice(["a", "state", "images", ""]).item(): odd_value(rng, depth + 1) for _ in range(3)}
    if kind == 12:
        return np.full(rng.integers(0, 20, size=int(rng.integers(0, 4))), np.nan, np.float32)
    return rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)


def bad_message(rng: np.random.Generator, good: bytes) -> bytes | str:
    """One of many ways to be wrong. Now and then the result is right by accident; that must be answered too."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 200)))
    if kind == 1:  # cut off
        return good[: int(rng.integers(0, len(good)))]
    if kind == 2:  # some bytes changed, in the headers mostly
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), 400), size=4):
            data[at] = rng.integers(0, 256)
        return bytes(data)
    if kind == 3:
        return "text " * int(rng.integers(0, 20))
    keys = ("images", "state", "prompt", "seed", "cameras", "prefix", "num_committed", "voxel_m", "session_id", "reset")
    wrong = {key: odd_value(rng) for key in rng.choice([*keys, "cancel", "observation/left"], size=2)}
    base = message() if kind == 4 else {}
    try:
        return msgpack.packb(base | wrong, default=lambda value: msgpack.unpackb(packb(value)))
    except (ValueError, OverflowError):
        return b"\xc1"


def test_thousands_of_malformed_messages(running):
    rng, good = np.random.default_rng(0), packb(message())
    stop, served, failures = threading.Event(), [], []

    def good_robot():
        with running.robot() as robot:
            expected = None
            while not stop.is_set():
                answer = ask(robot, request_id=1)
                if answer["type"] != "actions":
                    failures.append(answer)
                    return
                expected = answer["actions"] if expected is None else expected
                if np.abs(answer["actions"] - expected).max() > 1e-5:
                    failures.append("another answer to the same question")
                served.append(1)

    robot = threading.Thread(target=good_robot)
    robot.start()
    refused, memory = 0, []
    try:
        with running.robot() as attacker:
            for turn in range(NUM_FUZZED // BURST):
                for _ in range(BURST):
                    attacker.send(bad_message(rng, good))
                for _ in range(BURST):  # every message is answered, none ends the connection
                    answer = hear(attacker)
                    refused += isinstance(answer, str) or answer["type"] == "refusal"
                if turn % 100 == 99:
                    memory.append(resident_mb())
    finally:
        stop.set()
        robot.join(60)
    assert failures == []
    assert len(served) > 10
    assert refused > 0.9 * NUM_FUZZED
    assert max(memory[1:]) - memory[0] < 30, f"memory grew: {memory}"
    counts = running.service.metrics.counts()
    assert counts["failed"] == 0, "a message reached code that did not expect it"
    assert until(lambda: len(running.service.worker) == 0)


def test_a_message_beyond_the_limit_ends_only_its_own_connection(running):
    with running.robot() as neighbour:
        with running.robot() as robot:
            with contextlib.suppress(ConnectionClosed):
                robot.send(bytes(LIMITS.message_bytes + 1))
            with pytest.raises(ConnectionClosed) as closed:
                robot.recv(30)
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        assert "actions" in ask(neighbour)


@pytest.fixture
def held(policy, monkeypatch):
    """The policy answers nobody before this is set."""
    real, free = policy.predict_stepwise, threading.Event()

    def slow(*asked, **more):
        assert free.wait(60)
        return real(*asked, **more)

    monkeypatch.setattr(policy, "predict_stepwise", slow)
    yield free
    free.set()


def test_too_many_requests_of_one_robot_are_refused_at_once(running, held):
    most = running.service.config.per_connection
    assert most < running.service.config.max_queue, "otherwise the queue would refuse"
    with running.robot() as robot, running.robot() as neighbour:
        for number in range(most + 3):
            robot.send(packb(message(request_id=number)))
        for number in range(most, most + 3):  # heard while nothing is answered
            refused = hear(robot)
            assert (refused["request_id"], refused["rule"]) == (number, "busy")
            assert f"per_connection={most}" in refused["message"]
        neighbour.send(packb(message(request_id=0)))
        held.set()
        assert [hear(robot)["type"] for _ in range(most)] == ["actions"] * most
        assert hear(neighbour)["type"] == "actions"


def test_an_id_that_is_pending_is_refused(running, held):
    with running.robot() as robot:
        robot.send(packb(message(request_id=1)))
        refused = ask(robot, request_id=1)
        assert (refused["rule"], "is pending already" in refused["message"]) == ("out_of_range", True)
        held.set()
        assert hear(robot)["type"] == "actions"
        assert ask(robot, request_id=1)["type"] == "actions"


def test_cancel_and_reset_over_the_wire(running):
    with running.robot() as robot:
        robot.send(packb(message(request_id="a", world=True)))
        assert hear(robot)["type"] == "actions"
        robot.send(packb({"cancel": "a"}))
        heard = [hear(robot), hear(robot)]
        if heard[0]["type"] == "world":  # it was faster
            assert heard[1] | {"type": "cancelled", "request_id": "a", "found": False} == heard[1]
        else:
            assert (heard[0]["part"], heard[0]["rule"]) == ("world", "cancelled")
            assert heard[1] == {"type": "cancelled", "request_id": "a", "found": True}
        robot.send(packb({"cancel": "never asked", "request_id": 5}))
        assert hear(robot) == {"type": "cancelled", "request_id": 5, "found": False}
        robot.send(packb({"reset": True, "session_id": "s"}))
        assert hear(robot) == {"type": "reset", "session_id": "s"}


def test_a_reset_that_comes_with_an_observation_makes_room_for_it(running):
    """Also where the robot has asked as often as it may, and under an id that is in work."""
    most = running.service.config.per_connection
    with running.robot() as robot:
        for number in range(most):
            robot.send(packb(message(request_id=number, session_id="s", world=True)))
        robot.send(packb(message(request_id=0, session_id="s", reset=True, seed=5)))
        heard = [hear(robot)]
        while heard[-1]["request_id"] != 0 or heard[-1].get("seed") != 5:
            heard.append(hear(robot))
        assert heard[-1]["type"] == "actions"
        assert not [answer for answer in heard if answer.get("rule") in ("busy", "out_of_range")]
        assert ask(robot, request_id=0)["type"] == "actions", "its id is free again"


def test_a_wrong_session_is_refused_under_the_id_of_the_message(running):
    with running.robot() as robot:
        robot.send(packb(message(request_id=7, session_id=5)))
        answer = hear(robot)
        assert (answer["type"], answer["request_id"], answer["rule"]) == ("refusal", 7, "wrong_type")


def test_the_cameras_that_a_server_tells_may_be_sent_back(running):
    with running.dial() as robot:
        told = {camera["name"]: camera for camera in hear(robot)["cameras"]}
        assert ask(robot, request_id=1, cameras=told)["type"] == "actions"
        wrong = {"left": {**told["left"], "on_hand": "yes"}}
        assert ask(robot, request_id=1, cameras=wrong)["rule"] == "wrong_type"


@pytest.mark.parametrize("name", [np.zeros(2), "right", 5])
def test_a_calibration_that_names_another_camera_is_refused(running, name):
    calibration = {"name": name, "width": 32, "height": 32}
    with running.robot() as robot:
        answer = ask(robot, request_id=1, cameras={"left": calibration})
        assert (answer["rule"], "must be 'left'" in answer["message"]) == ("unknown_camera", True)


def test_lenses_that_no_picture_can_come_from_are_refused(running):
    singular = {"width": 32, "height": 32, "intrinsics": np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])}
    with running.robot() as robot:
        assert ask(robot, request_id=1, world=True, cameras={"left": singular})["rule"] == "out_of_range"


def test_a_session_goes_on_over_another_connection(running):
    """A robot that lost its connection comes back and its old world is dropped."""
    with running.robot() as old, running.robot() as new:
        old.send(packb(message(request_id=1, session_id="arm", world=True)))
        assert hear(old)["type"] == "actions"
        new.send(packb(message(request_id=1, session_id="arm")))
        assert hear(new)["type"] == "actions"
        last = hear(old)
        assert last["type"] == "world" or last["rule"] == "superseded"


def test_robots_that_die_in_the_middle_leave_nothing_behind(running):
    worker = running.service.worker
    with running.robot() as neighbour:
        for _ in range(10):
            robot = running.dial()
            hear(robot)
            for number in range(3):
                robot.send(packb(message(request_id=number, world=True)))
            reset = struct.pack("ii", 1, 0)  # the connection is reset, as when a machine dies
            robot.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            robot.socket.shutdown(socket.SHUT_RD)
            robot.socket.close()
            assert "actions" in ask(neighbour)
    assert until(lambda: len(worker) == 0), f"{len(worker)} requests are left"
    assert until(lambda: worker.robots == 0)


def test_sockets_that_never_speak_are_closed(policy):
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    with Running(service, ping_s=0.5, open_timeout_s=0.5) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        opened = socket.create_connection(("127.0.0.1", server.port))
        opened.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert until(lambda: service.worker.robots == 1)
        with server.robot(ping_interval=None) as robot:  # it answers pings: it stays
            assert until(lambda: service.worker.robots == 1, 15), "a dead robot was kept"
            for quiet in silent:
                quiet.settimeout(15)
                with contextlib.suppress(ConnectionResetError):
                    assert quiet.recv(1000) == b""  # closed by the server
            assert "actions" in ask(robot)
        for quiet in [*silent, opened]:
            quiet.close()


def test_a_robot_that_does_not_listen_is_left_alone(policy):
    """It asks and never takes an answer: the server stops reading from it, then gives it up."""
    service = Service(policy, ServeConfig(send_timeout_s=0.5), name="debug", hash_="0" * 16)
    read, sent = [], []

    async def endless():
        while True:
            read.append(1)
            yield packb({"a": 1})
            await asyncio.sleep(0)

    async def send(data):
        sent.append(data)
        if len(sent) > 3:
            await asyncio.Event().wait()  # its buffers are full, for ever

    with pytest.raises(TimeoutError):
        asyncio.run(converse(service, endless(), send))
    assert len(sent) == 4
    assert len(read) < 2 * MAX_UNSENT
    assert service.worker.robots == 0


@pytest.fixture(scope="module")
def own_process(served_folder):
    """``xwam serve`` as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []

    def start(*more):
        code = "from xwam.cli import main; main()"
        arguments = ["serve", str(served_folder), "--port", str(port), *more]
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
        started.append(process)

        def healthy():
            assert process.poll() is None, process.stderr.read()
            with contextlib.suppress(ConnectionRefusedError):
                http_connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                http_connection.request("GET", "/healthz")
                return http_connection.getresponse().status == 200
            return False

        assert until(healthy, 150)
        return process, f"ws://127.0.0.1:{port}/"

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_the_verb_and_a_server_that_is_killed_in_the_middle(own_process, tmp_path):
    (tmp_path / "key").write_text("secret\n")
    process, where = own_process("--api-key-file", str(tmp_path / "key"), "--max-batch", "1")
    robot = connect(where, compression=None, additional_headers={"Authorization": "Api-Key secret"})
    told = hear(robot)
    assert len(told["checkpoint"]["hash"]) == 16
    assert "actions" in ask(robot)
    robot.send(packb(message(request_id=1, world=True)))
    process.kill()
    with pytest.raises(ConnectionClosed):
        list(iter(lambda: hear(robot), None))  # until the end
    process.wait(10)

    process, where = own_process("--actions-only", "--max-batch", "1")
    with connect(where, compression=None) as robot:
        assert hear(robot)["world"] is False
        assert ask(robot, request_id=1, world=True)["rule"] == "not_offered"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            hear(robot)
    assert process.wait(30) == 0


def test_the_verb_refuses_bad_settings(served_folder, tmp_path):
    from xwam.cli.serving import serve

    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="api_key_file"):
        serve(served_folder, api_key_file=tmp_path / "empty")
    with pytest.raises(ValueError, match="max_batch=0"):
        serve(served_folder, max_batch=0)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        serve(tmp_path)


def test_known_prompts_are_served_without_a_text_encoder(served_folder, policy, tmp_path):
    """And where there is one it is not loaded: it may be the largest part of all."""
    bare = tmp_path / "bare"
    shutil.copytree(served_folder, bare)
    policy.save_prompts(bare, [message()["prompt"]])
    shutil.rmtree(bare / "text")
    service = load_service(bare, ServeConfig(max_batch=2))
    with Running(service) as server, server.robot() as robot:
        assert ask(robot)["actions"].shape == (CONFIG.clip.action_horizon, 14)
        refused = ask(robot, prompt="never heard of", request_id=1)
        assert refused["rule"] == "not_offered"
        assert message()["prompt"] in refused["message"], "what it does know"
    assert service.health != "failed"


def test_a_device_that_failed_is_not_called_healthy(policy, monkeypatch):
    """Every later call would fail as well: whoever restarts servers must hear of it."""
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    with Running(service) as server, server.robot() as robot:
        assert service.health == "ok"

        def broken(*_: object, **__: object):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(policy, "predict_stepwise", broken)
        assert ask(robot, request_id=1)["rule"] == "failed"
        assert service.health == "failed"


def test_a_batch_is_tried_again_when_its_memory_is_free(policy, monkeypatch):
    """While an error is being handled its frames live, and with them all that the failed batch had made."""
    real, handled = policy.predict_stepwise, []

    def fails_together(observations, *rest, **more):
        handled.append(sys.exc_info()[0])
        if len(observations) > 1:
            raise RuntimeError("out of memory")
        return real(observations, *rest, **more)

    config = ServeConfig(max_batch=2, batch_window_ms=1000.0)
    with Running(Service(policy, config, name="debug", hash_="0" * 16)) as server:
        monkeypatch.setattr(policy, "predict_stepwise", fails_together)
        with server.robot() as first, server.robot() as second:
            first.send(packb(message()))
            second.send(packb(message(1)))
            for robot in (first, second):
                assert hear(robot)["actions"].shape[1] == 14
    assert handled == [None] * 3
