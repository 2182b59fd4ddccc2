"""The server as robots see it: openpi's shapes, two answers, seeds, refusals; all over a real socket."""

import asyncio
import http.client
import signal
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from xwam_client.protocol import packb, unpack_array, unpack_images

from tests.examples import make_observation
from tests.serve.conftest import CONFIG, Running, ask, hear, message
from xwam.policy import Policy
from xwam.serve.server import run
from xwam.serve.service import ServeConfig, Service
from xwam.serve.wire import RULES


def get(port: int, path: str, **headers) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_metadata_says_what_a_robot_must_compare(running, policy):
    with running.dial() as robot:
        told = hear(robot)
    assert told["protocol"] == "xwam/1"
    assert [camera["name"] for camera in told["cameras"]] == list(CONFIG.view_names)
    assert [part["unit"] for part in told["layout"]["action"]] == [part.unit for part in policy.layout.action]
    assert told["statistics_hash"] == policy.normalizer.fingerprint()
    assert (told["action_horizon"], told["action_hz"]) == (CONFIG.clip.action_horizon, CONFIG.clip.action_hz)
    np.testing.assert_array_equal(told["cameras"][0]["intrinsics"], policy.cameras[CONFIG.view_names[0]].intrinsics)


def test_openpi_gets_actions_in_either_spelling(running, policy):
    nested = message(scene=1)
    flat = {"prompt": nested["prompt"], "observation/state": nested["state"]}
    flat |= {f"observation/{name}": image for name, image in nested["images"].items()}
    from tests.examples import make_observation

    expected = next(policy.predict(make_observation(CONFIG, seed=1), actions_only=True))
    with running.robot() as robot:
        for spelling in (nested, flat):
            robot.send(packb(spelling))
            answer = hear(robot)
            assert answer["actions"].dtype == np.float32
            np.testing.assert_allclose(answer["actions"], expected.action, atol=1e-5)
            assert answer["server_timing"]["infer_ms"] > 0
        assert answer["server_timing"]["prev_total_ms"] > 0


def test_an_openpi_client_reads_refusals_as_text_and_lives_on(running):
    with running.robot() as robot:
        refused = ask(robot, nonsense=1)
        assert isinstance(refused, str)
        assert refused.startswith("unknown_key: key='nonsense'")
        robot.send("hello")
        assert hear(robot).startswith("malformed: text frame")
        assert "actions" in ask(robot)


def test_the_world_follows_its_actions(running, policy):
    from tests.examples import make_observation

    now, later = policy.predict(make_observation(CONFIG), seed=4)
    with running.robot() as robot:
        first = ask(robot, request_id=7, world=True, world_format="raw", seed=4, voxel_m=0.05)
        second = hear(robot)
    assert (first["type"], second["type"]) == ("actions", "world")
    assert first["request_id"] == second["request_id"] == 7
    np.testing.assert_array_equal(first["actions"], now.action)
    np.testing.assert_array_equal(second["states"], later.state)
    for view, name in enumerate(CONFIG.view_names):
        np.testing.assert_array_equal(unpack_images(second["video"][name]), later.video[view])
        depth = unpack_array(second["depth"][name])
        np.testing.assert_allclose(depth, later.depth[view], atol=0.51 * second["depth"][name]["scale"])
    assert len(second["clouds"]) == len(later.state)


def test_clouds_are_those_of_the_library(running, policy):
    from tests.examples import make_observation
    from xwam.view.points import fuse, thinned

    *_, later = policy.predict(make_observation(CONFIG), seed=4)
    with running.robot() as robot:
        ask(robot, request_id="w", world=True, seed=4, voxel_m=0.05)
        clouds = hear(robot)["clouds"]
    sizes = []
    for step, packed in enumerate(clouds):
        cloud = fuse(later, policy.layout, step)
        expected = thinned(cloud, 0.05) if len(cloud.points) else cloud
        points = unpack_array(packed["points"])
        assert points.shape == expected.points.shape
        np.testing.assert_allclose(points, expected.points, atol=0.51 * packed["points"]["scale"])
        np.testing.assert_array_equal(unpack_array(packed["colours"]), expected.colours)
        sizes.append(len(points))
    assert max(sizes) > 0


def test_worlds_as_pictures(running, policy):
    from tests.examples import make_observation

    *_, later = policy.predict(make_observation(CONFIG), seed=4)
    with running.robot() as robot:
        ask(robot, request_id=1, world=True, world_format="png", seed=4)
        np.testing.assert_array_equal(unpack_images(hear(robot)["video"]["left"]), later.video[0])
        ask(robot, request_id=1, world=True, seed=4)
        assert hear(robot)["video"]["left"]["format"] == "jpeg"


def test_same_seed_same_bytes_whoever_else_is_asking(running):
    """A named seed buys a batch of one: bytes do not depend on the crowd."""
    with running.robot() as robot:
        quiet = ask(robot, seed=11)["actions"].tobytes()
        again = ask(robot, seed=11)["actions"].tobytes()
        other = ask(robot, seed=12)["actions"].tobytes()
    assert quiet == again != other
    stop, sizes = threading.Event(), []

    def crowd():
        with running.robot() as neighbour:
            while not stop.is_set():
                sizes.append(
                    ask(
                        neighbour,
                    )["server_timing"]["batch_size"]
                )

    crowds = [threading.Thread(target=crowd) for _ in range(3)]
    for thread in crowds:
        thread.start()
    with running.robot() as robot:
        answers = [ask(robot, seed=11) for _ in range(5)]
    stop.set()
    for thread in crowds:
        thread.join()
    assert {answer["actions"].tobytes() for answer in answers} == {quiet}
    assert {answer["server_timing"]["batch_size"] for answer in answers} == {1}
    assert max(sizes) > 1, "the crowd was never batched, so the test showed nothing"


def test_batched_answers_differ_from_single_ones_by_rounding_only(running):
    def asked(seed, into):
        with running.robot() as robot:
            barrier.wait()
            into[seed] = ask(robot, scene=seed)

    answers: dict = {}
    for _ in range(5):
        barrier = threading.Barrier(3)
        threads = [threading.Thread(target=asked, args=(seed, answers)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if max(answer["server_timing"]["batch_size"] for answer in answers.values()) > 1:
            break
    assert max(answer["server_timing"]["batch_size"] for answer in answers.values()) > 1
    with running.robot() as robot:
        for seed in range(3):
            alone = ask(robot, scene=seed, seed=0)
            np.testing.assert_allclose(answers[seed]["actions"], alone["actions"], atol=1e-6)


def test_a_prefix_is_what_the_answer_begins_with(running):
    rng = np.random.default_rng(0)
    prefix = np.zeros((4, 14), np.float32)
    prefix[:, :7] = rng.uniform(-0.05, 0.05, (4, 7))
    with running.robot() as robot:
        answer = ask(robot, prefix=prefix, num_committed=2, request_id=0)
        np.testing.assert_allclose(answer["actions"][:2], prefix[:2], atol=1e-6)
        assert np.abs(answer["actions"][2] - prefix[2]).max() > 1e-6
        assert ask(robot, prefix=prefix, num_committed=5, request_id=1)["rule"] == "out_of_range"
        assert ask(robot, num_committed=5, request_id=1)["rule"] == "missing_key"
        assert ask(robot, prefix=prefix * 1000, request_id=1)["rule"] == "out_of_range"
        assert ask(robot, prefix=prefix[:, :3], request_id=1)["rule"] == "wrong_shape"


def test_refusals_name_the_rule(running):
    good = message()
    nan, absurd, not_unit = (good["state"].copy() for _ in range(3))
    nan[2], absurd[0], not_unit[3:7] = np.nan, 1000.0, 0.0
    images = good["images"]
    first = CONFIG.view_names[0]
    lens = {"width": 32, "height": 32, "intrinsics": np.eye(3)}
    cases = [
        ("not_finite", {"state": nan}, "NaN"),
        ("absurd_state", {"state": absurd}, "left_position"),
        ("absurd_state", {"state": not_unit}, "unit quaternion"),
        ("wrong_shape", {"state": good["state"][:5]}, "(16,)"),
        ("wrong_type", {"state": [0.0] * 16}, "array"),
        ("unknown_camera", {"images": {**images, "lefft": images[first]}}, "did you mean 'left'"),
        ("missing_key", {"images": {first: images[first]}}, "is missing"),
        ("wrong_shape", {"images": {**images, first: images[first].transpose(2, 0, 1)}}, "(H, W, 3)"),
        ("wrong_type", {"images": {**images, first: images[first].astype(np.float32)}}, "uint8"),
        ("out_of_range", {"prompt": "  "}, "1..1000"),
        ("wrong_type", {"prompt": 3}, "string"),
        ("out_of_range", {"seed": -1}, "0.."),
        ("wrong_type", {"seed": 1.5}, "whole"),
        ("out_of_range", {"world": True, "world_format": "gif"}, "allowed"),
        ("out_of_range", {"voxel_m": float("nan")}, "voxel_m"),
        ("unknown_camera", {"cameras": {"head": lens}}, "head"),
        ("out_of_range", {"cameras": {first: {**lens, "intrinsics": np.zeros((3, 3))}}}, "focal"),
        ("out_of_range", {"cameras": {first: {**lens, "base_from_camera": 2 * np.eye(4)}}}, "rotation"),
        ("missing_key", {"cameras": {first: {"intrinsics": np.eye(3)}}}, "width"),
    ]
    with running.robot() as robot:
        for rule, wrong, words in cases:
            answer = ask(robot, request_id=1, **wrong)
            assert (answer["type"], answer["rule"], answer["request_id"]) == ("refusal", rule, 1), answer
            assert words in answer["message"], answer
        assert ask(robot, world=True).startswith("missing_key")
        robot.send(packb({"request_id": 1, "prompt": "x"}))
        assert hear(robot)["rule"] == "missing_key"
        assert ask(robot, request_id=2)["type"] == "actions"


def test_health_metrics_key_and_paths(policy):
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    with Running(service, api_key="secret") as server:
        key = {"Authorization": "Api-Key secret"}
        assert get(server.port, "/healthz") == (200, "OK\n")
        assert get(server.port, "/metrics")[0] == 401
        assert get(server.port, "/other", **key)[0] == 404
        for wrong in (
            {},
            {"Authorization": "Api-Key secre"},
            {"Authorization": "Api-Key sécret".encode("latin1").decode("latin1")},
        ):
            with pytest.raises(InvalidStatus, match="401"):
                server.dial(additional_headers=wrong)
        with pytest.raises(InvalidStatus, match="403"):
            server.dial(additional_headers=key, origin="http://somewhere.example")
        with server.robot(additional_headers=key) as robot:
            assert "actions" in ask(robot)
            ask(robot, nonsense=1)
        status, text = get(server.port, "/metrics", **key)
    assert status == 200
    assert 'xwam_answers_total{part="actions"} 1' in text
    assert 'xwam_refusals_total{rule="unknown_key"} 1' in text
    assert 'xwam_actions_seconds_bucket{le="+Inf"} 1' in text
    assert all(f'rule="{rule}"' in text for rule in RULES)


def test_not_healthy_before_it_is_warm(policy, monkeypatch):
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    server, seen = Running(service), []
    warm_up = service._warm_up

    def watched():
        seen.append(get(server.port, "/healthz"))
        with pytest.raises(InvalidStatus, match="503"):
            server.dial()
        warm_up()
        seen.append(get(server.port, "/healthz"))

    monkeypatch.setattr(service, "_warm_up", watched)
    with server:
        seen.append(get(server.port, "/healthz"))
    assert [status for status, _ in seen] == [503, 503, 200]


def test_a_long_computation_does_not_lose_the_robot(policy, monkeypatch):
    """The robot pings and soon gives up; the policy only sleeps before it answers."""
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    with Running(service, ping_s=0.5) as server:
        real = policy.predict_stepwise

        def slow(*args, **more):
            time.sleep(2.0)
            return real(*args, **more)

        monkeypatch.setattr(policy, "predict_stepwise", slow)
        with server.robot(ping_interval=0.2, ping_timeout=0.5) as robot:
            asked = time.monotonic()
            robot.send(packb(message()))
            answer = hear(robot, timeout=120)
            assert time.monotonic() - asked > 2.0
            assert "actions" in answer


def test_a_message_beyond_the_memory_bound_is_refused_and_the_connection_lives_on(policy):
    service = Service(policy, ServeConfig(max_batch=1, max_bytes=20_000), name="debug", hash_="0" * 16)
    with Running(service) as server, server.robot() as robot:
        images = {name: np.zeros((200, 200, 3), np.uint8) for name in CONFIG.view_names}
        refused = ask(robot, request_id=1, images=images)
        assert (refused["rule"], "max_bytes=20000" in refused["message"]) == ("busy", True)
        assert ask(robot, request_id=2)["type"] == "actions"


def test_a_camera_on_a_hand_that_the_robot_lacks_is_refused_at_the_door(running):
    """Found when the world is packed, it would throw away seconds of work."""
    pose = np.eye(4)
    width, height = CONFIG.clip.width_px, CONFIG.clip.height_px
    for hand in ("right", "left"):
        row = {"width": width, "height": height, "intrinsics": np.eye(3), "hand_from_camera": pose, "hand": hand}
        with running.robot() as robot:
            answer = ask(robot, request_id=1, cameras={CONFIG.view_names[-1]: row})
        if hand == "left":
            assert answer["type"] == "actions"
        else:
            assert (answer["rule"], "hand='right'" in answer["message"]) == ("out_of_range", True)


def test_a_server_that_warms_up_ends_when_it_is_told_to(policy, monkeypatch):
    """Compiling takes minutes in its own thread; nobody waits for that."""
    service, held = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16), threading.Event()
    monkeypatch.setattr(service, "_warm_up", lambda: held.wait(60))
    threading.Timer(0.5, signal.raise_signal, [signal.SIGTERM]).start()
    began = time.monotonic()
    asyncio.run(run(service, "127.0.0.1", 0))
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    held.set()


def test_a_server_whose_device_failed_ends_with_an_error(policy, monkeypatch):
    """Whoever restarts servers watches processes; for some seconds robots and probes still hear what is wrong."""
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("xwam.serve.server.FAILED_S", 3.0)
    heard = []

    def broken(*_: object, **__: object):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def robot():
        while service.health != "ok":
            time.sleep(0.05)
        monkeypatch.setattr(policy, "predict_stepwise", broken)
        with connect(f"ws://127.0.0.1:{port}/", compression=None) as connection:
            hear(connection)
            heard.append(ask(connection, request_id=1)["rule"])
        heard.append(get(port, "/healthz"))

    talking, too_long = threading.Thread(target=robot), threading.Timer(60, signal.raise_signal, [signal.SIGTERM])
    talking.start()
    too_long.start()
    with pytest.raises(RuntimeError, match="failed for good"):
        asyncio.run(run(service, "127.0.0.1", port))
    too_long.cancel()
    talking.join(10)
    assert heard == ["failed", (503, "failed\n")]


def test_a_checkpoint_that_only_acts_is_served_whole(policy):
    """It has a decoder, as every checkpoint; but it was never taught to imagine."""
    acting = Policy(replace(CONFIG, modes=("policy",)), policy.normalizer, policy.cameras, policy.networks)
    service = Service(acting, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    with Running(service) as server, server.dial() as robot:
        assert hear(robot)["world"] is False
        assert ask(robot, request_id=1)["type"] == "actions"
        assert ask(robot, request_id=2, world=True)["rule"] == "not_offered"


def test_a_prefix_that_would_steer_without_gradients_is_refused_at_the_door(policy):
    """As int8-dynamic leaves it. A checkpoint that was trained with prefixes is given them all the same."""
    integers, prefix = policy.networks._replace(is_differentiable=False), np.zeros((4, 14), np.float32)
    untrained = replace(CONFIG, noise=replace(CONFIG.noise, max_prefix=0))
    for config in (CONFIG, untrained):
        served = Policy(config, policy.normalizer, policy.cameras, integers)
        service = Service(served, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
        with Running(service) as server, server.robot() as robot:
            answer = ask(robot, request_id=1, prefix=prefix, num_committed=2)
            assert ask(robot, request_id=2)["type"] == "actions"
        if config is CONFIG:
            assert answer["type"] == "actions"
        else:
            assert (answer["rule"], "int8-dynamic" in answer["message"]) == ("not_offered", True)


def test_closing_refuses_what_is_unfinished(policy, monkeypatch):
    service = Service(policy, ServeConfig(max_batch=1), name="debug", hash_="0" * 16)
    real, begun = policy.predict_stepwise, threading.Event()

    def slow(*args, **more):
        begun.set()
        time.sleep(2.0)
        return real(*args, **more)

    with Running(service) as server:
        monkeypatch.setattr(policy, "predict_stepwise", slow)
        robot = server.dial()
        hear(robot)
        robot.send(packb(message(request_id=1)))
        assert begun.wait(10)
    assert hear(robot)["rule"] == "closing"
    with pytest.raises(ConnectionClosed):
        hear(robot)


def test_a_robot_without_one_of_the_views_is_served(policy):
    lacks = CONFIG.view_names[1]
    fewer = Policy(CONFIG, policy.normalizer, policy.cameras, policy.networks, absent={lacks})
    with Running(Service(fewer, ServeConfig(), name="debug", hash_="0" * 16)) as server, server.dial() as connection:
        assert lacks not in [camera["name"] for camera in hear(connection)["cameras"]]
        images = {name: image for name, image in message()["images"].items() if name != lacks}
        answer = ask(connection, images=images)
        assert answer["type"] == "actions"
        assert ask(connection, request_id=1, images=images, world=True)["type"] == "actions"
        world = hear(connection)
        assert world["video"].keys() == images.keys(), "no pictures of a camera that is not there"
    observation = replace(make_observation(CONFIG), images=images)
    expected = next(fewer.predict(observation, seed=0, actions_only=True)).action
    np.testing.assert_allclose(answer["actions"], expected, atol=1e-6)
