"""The client against a real server: the same actions as the policy's, two answers, refusals, lost connections."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from xwam_client.agreement import COMPARED, MismatchError
from xwam_client.client import MOST_UNTOLD, Client, Observation
from xwam_client.protocol import RefusedError, decode_world
from xwam_client.rollout import rollout

from tests.client.conftest import RunningAt
from tests.client.mock_robot import MockRobot
from tests.examples import make_observation
from tests.serve.conftest import CONFIG, Running
from xwam.records import Camera
from xwam.robot.layout import MEANING

SEEN = make_observation(CONFIG)


@pytest.fixture
def robot(policy) -> MockRobot:
    return MockRobot(CONFIG, policy.layout)


@pytest.fixture(scope="module")
def client(server):
    with Client(port=server.port) as found:
        yield found


def test_client_and_simulators_compare_the_same_of_a_part():
    """The client knows no xwam, so the names stand twice."""
    assert COMPARED == MEANING


def test_actions_are_the_policys_own(client, policy):
    expected = next(policy.predict(SEEN, seed=5, actions_only=True)).action
    np.testing.assert_array_equal(client.infer(SEEN, seed=5), expected)
    plain = Observation(images=dict(SEEN.images), state=SEEN.state, instruction=SEEN.instruction)
    np.testing.assert_array_equal(client.infer(plain, seed=5), expected)


def test_a_closed_client_says_so_at_once(server):
    closed = Client(port=server.port)
    closed.close()
    with pytest.raises(ConnectionError, match="was closed by this client"):
        closed.ask(SEEN).actions.result(5)
    with pytest.raises(ConnectionError, match="was closed by this client"):
        closed.infer(SEEN)


def test_a_prefix_arrives_in_the_robots_units(client, policy):
    old = client.infer(make_observation(CONFIG, seed=9), seed=1)[5:]
    found = client.infer(SEEN, seed=5, prefix=old, num_committed=3)
    np.testing.assert_allclose(found[:3], old[:3], atol=1e-6)
    expected = next(policy.predict(SEEN, seed=5, actions_only=True, prefix=old, num_committed=3)).action
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_world_comes_later_and_calls_back(client, policy):
    request = client.ask(SEEN, seed=5, world=True, world_format="raw")
    came = threading.Event()
    request.world.add_done_callback(lambda _: came.set())
    assert request.actions.result(60)["type"] == "actions"
    world = decode_world(request.world.result(60))
    assert came.wait(1)
    *_, expected = policy.predict(SEEN, seed=5)
    for name, video, depth in zip(CONFIG.view_names, expected.video, expected.depth, strict=True):
        np.testing.assert_array_equal(world["video"][name], video)
        np.testing.assert_allclose(world["depth"][name], depth, atol=1e-3)
    assert len(world["clouds"]) == CONFIG.clip.num_frames
    assert world["clouds"][0]["points"].shape == (*world["clouds"][0]["view"].shape, 3)


def test_whoever_looks_at_a_world_holds_up_no_actions(client):
    """The callback asks again, and waits for the answer."""
    found: list = []
    done = threading.Event()

    def look(_):
        found.append(client.infer(SEEN, seed=6))
        done.set()

    request = client.ask(SEEN, seed=5, world=True)
    request.world.add_done_callback(look)
    assert done.wait(60)
    assert found[0].shape == request.actions.result(0)["actions"].shape


def test_worlds_that_nobody_looks_at_do_not_pile_up(server):
    """The first is being looked at, so many may wait with it; the newest is refused, and later ones come again."""
    asked, looks_on = [], threading.Event()
    with Client(port=server.port) as client:
        for _ in range(MOST_UNTOLD + 2):
            asked.append(client.ask(SEEN, seed=5, world=True))
            asked[-1].world.add_done_callback(lambda _: looks_on.wait(60))
            asked[-1].actions.result(60)
            deadline = time.monotonic() + 60
            while client._pending and time.monotonic() < deadline:
                time.sleep(0.01)
        assert len(client._untold) == MOST_UNTOLD
        looks_on.set()
        for request in asked[:MOST_UNTOLD]:
            assert request.world.result(60)["type"] == "world"
        for request in asked[MOST_UNTOLD:]:
            refused = request.world.exception(60)
            assert (refused.rule, "looked at" in str(refused)) == ("superseded", True)
        last = client.ask(SEEN, seed=5, world=True)
        assert last.world.result(60)["type"] == "world"


def test_pictures_that_the_server_would_not_read_are_not_sent(client, monkeypatch):
    monkeypatch.setitem(client.metadata["limits"], "message_bytes", 1000)
    with pytest.raises(ValueError, match=r"message of \d+ bytes: ws://.* reads 1000 at most; send smaller pictures"):
        client.infer(SEEN)
    assert not client._pending


def test_addresses_of_ipv6_have_brackets():
    with pytest.raises(ConnectionError, match=r"no xwam server at ws://\[::1\]:9"):
        Client("::1", 9, connect_seconds=0.2)


def test_cancel_and_a_new_episode_drop_what_is_unfinished(client, policy, monkeypatch):
    """The policy is held between its steps, so that nothing finishes before it is cancelled."""
    held, stepwise = threading.Event(), policy.predict_stepwise

    def slowly(*asked, **more):
        for event in stepwise(*asked, **more):
            assert held.wait(60)
            yield event

    monkeypatch.setattr(policy, "predict_stepwise", slowly)
    for drop in (lambda request: client.cancel(request), lambda _: client.reset()):
        held.clear()
        request = client.ask(SEEN, world=True)
        drop(request)
        with pytest.raises(RefusedError) as refused:
            request.actions.result(60)
        assert refused.value.rule == "cancelled"
        assert isinstance(request.world.exception(60), RefusedError)
        held.set()


def test_a_refusal_names_its_rule_and_the_connection_lives_on(client):
    broken = replace(SEEN, state=np.full(16, np.nan, np.float32))
    with pytest.raises(RefusedError, match="state") as refused:
        client.infer(broken)
    assert refused.value.rule == "not_finite"
    assert client.infer(SEEN).shape == (CONFIG.clip.action_horizon, 14)


def test_many_threads_share_a_client(client):
    answers = {}

    def ask(seed):
        answers[seed] = client.infer(SEEN, seed=seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    for seed, answer in answers.items():
        np.testing.assert_array_equal(answer, client.infer(SEEN, seed=seed))
    assert len(answers) == 4


def offered(robot: MockRobot) -> SimpleNamespace:
    """What a robot without xwam says of itself: plain maps."""
    layout = {which: [dict(vars(p)) for p in getattr(robot.layout, which)] for which in ("state", "action")}
    return SimpleNamespace(cameras=list(robot.cameras), layout=layout, action_hz=robot.action_hz)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.cameras.remove("right"), r"the model also needs \['right'\]"),
        (lambda r: r.layout["action"][0].update(unit="mm"), "action left_position unit='mm': the model has 'm'"),
        (lambda r: r.layout["state"][1].update(frame="world"), "state left_rotation frame='world'"),
        (lambda r: r.layout["action"][2].update(is_used=False), "left_gripper is_used=False"),
        (lambda r: r.layout["state"].reverse(), "state parts="),
        (lambda r: r.layout["state"].pop(), "state parts="),
        (lambda r: setattr(r, "action_hz", 10.0), "action_hz=10.0: the model has 20.0"),
    ],
)
def test_a_robot_that_differs_is_refused_before_it_moves(server, robot, spoil, message):
    offer = offered(robot)
    with Client(port=server.port, robot=offer) as client:
        client.check(robot)
        spoil(offer)
        with pytest.raises(MismatchError, match=message):
            client.check(offer)
    with pytest.raises(MismatchError, match=message):
        Client(f"ws://127.0.0.1:{server.port}", robot=offer)


def test_rates_that_differ_by_rounding_are_the_same(server, robot):
    robot.action_hz = 1 / (1 / robot.action_hz + 1e-12)
    assert robot.action_hz != 20.0
    with Client(port=server.port, robot=robot) as client:
        client.check(robot)


class PartOfARobot(NamedTuple):
    name: str
    kind: str


def test_a_robot_that_cannot_be_compared_is_refused_at_once(server, robot):
    bad = offered(robot)
    bad.layout["action"] = [PartOfARobot("left_position", "delta_position")]
    wrong = "robot=SimpleNamespace: cameras, action_hz or layout is not as needed"
    with pytest.raises(ValueError, match=f"{wrong}.*is_used"):
        Client(port=server.port, robot=bad)
    with pytest.raises(ValueError, match="'cameras'"):
        Client(port=server.port, robot=SimpleNamespace())
    whole = offered(robot)
    fields = [MappingProxyType(part) for part in whole.layout["state"]]
    whole.layout = MappingProxyType({**whole.layout, "state": fields})
    with Client(port=server.port, robot=whole) as client:
        assert client.infer(SEEN, seed=5).shape == (16, 14)


def test_rollout_compares_before_the_first_motion(client, robot):
    robot.action_hz = 5.0
    with pytest.raises(MismatchError, match="Nothing was moved"):
        rollout(robot, client, seed=0)
    assert robot.num_resets == 0
    assert robot.played == []


@pytest.mark.parametrize("play", ["wait", "overlap", "realtime"])
def test_a_mock_robot_in_real_time(client, robot, play):
    robot.goal_steps = 20
    episode = rollout(robot, client, seed=2, play=play, replan_every=6, max_steps=400)
    assert episode.success
    assert len(episode.action) == len(robot.played) == 20
    np.testing.assert_array_equal(episode.action, robot.played)
    assert (episode.action[episode.is_held][:, :6] == 0).all()
    assert episode.is_first[0]


class Timed(MockRobot):
    """Writes down when it was told to move, is slow to look once, and can hold."""

    def __init__(self, *about, slow_at: int, **more) -> None:
        super().__init__(*about, **more)
        self.told, self.held, self.slow_at = [], 0, slow_at

    def step(self, action) -> bool:
        self.told.append(time.monotonic())
        if len(self.told) == self.slow_at:
            time.sleep(0.25)
        return super().step(action)

    def hold(self) -> None:
        self.held += 1


def test_commands_never_come_in_a_burst(client, policy):
    """Neither at the start, for which the robot waited, nor after a hitch."""
    robot = Timed(CONFIG, policy.layout, goal_steps=12, slow_at=6)
    rollout(robot, client, seed=2, play="overlap", replan_every=4, max_steps=400)
    gaps = np.diff(robot.told)
    assert gaps.max() > 0.25
    assert gaps.min() > 0.1 / CONFIG.clip.action_hz


def test_a_robot_that_can_hold_is_told_to_instead_of_to_stay_where_it_sags(client, policy):
    robot = Timed(CONFIG, policy.layout, goal_steps=12, slow_at=0)
    episode = rollout(robot, client, seed=2, play="wait", replan_every=4, max_steps=400)
    assert robot.held == episode.is_held.sum() > 0
    assert len(robot.played) == 12


def test_an_episode_without_a_step_is_empty(client, robot):
    episode = rollout(robot, client, seed=2, play="wait", replan_every=6, max_steps=0)
    assert episode.action.shape == (0, 14)
    assert len(episode.is_held) == len(episode.is_first) == 0
    assert not robot.played


def test_where_time_stands_still_nobody_waits(client, robot):
    episode = rollout(robot, client, seed=2, play="wait", replan_every=6, max_steps=13, keeps_time=False)
    assert not episode.is_held.any()
    assert np.flatnonzero(episode.is_first).tolist() == [0, 6, 12]
    again = rollout(robot, client, seed=2, play="wait", replan_every=6, max_steps=13, keeps_time=False)
    np.testing.assert_array_equal(again.action, episode.action)


def test_a_server_that_dies_and_comes_back(make_service):
    with Running(make_service()) as first:
        port = first.port
        client = Client(port=port, connect_seconds=60)
        before = client.infer(SEEN, seed=3)
    late = client.ask(SEEN)
    assert isinstance(late.actions.exception(10), ConnectionError)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.infer(SEEN, seed=3)))
    asking.start()
    with RunningAt(make_service(), port):
        asking.join(60)
        assert len(answers) == 1
        np.testing.assert_array_equal(answers[0], before)
        client.close()


@pytest.mark.parametrize("closes_first", [True, False])
def test_nobody_waits_for_ever_when_the_connection_ends(make_service, policy, monkeypatch, closes_first):
    held, stepwise = threading.Event(), policy.predict_stepwise

    def slowly(*asked, **more):
        assert held.wait(60)
        yield from stepwise(*asked, **more)

    with Running(make_service()) as running:
        client = Client(port=running.port)
        monkeypatch.setattr(policy, "predict_stepwise", slowly)
        requests = [client.ask(SEEN, world=True) for _ in range(2)]
        threading.Timer(0.2, held.set).start()
        if closes_first:
            client.close()
    futures = [future for request in requests for future in (request.actions, request.world)]
    done, _ = wait(futures, timeout=30)
    assert len(done) == 4


def test_keys(make_service):
    with Running(make_service(), api_key="open sesame") as running:
        with Client(port=running.port, api_key="open sesame") as client:
            assert client.infer(SEEN).shape == (CONFIG.clip.action_horizon, 14)
        with pytest.raises(ConnectionError, match="refuses this api_key"):
            Client(port=running.port, api_key="open barley")


def test_no_server_and_a_server_of_another_kind(tmp_path):
    with pytest.raises(ConnectionError, match=r"no xwam server at ws://127\.0\.0\.1:9"):
        Client(port=9, connect_seconds=0.3)
    from websockets.sync.server import serve
    from xwam_client.protocol import packb

    with serve(lambda socket: socket.send(packb({"policy": "another"})), "127.0.0.1", 0) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        with pytest.raises(MismatchError, match="protocol=None"):
            Client(port=foreign.socket.getsockname()[1], connect_seconds=10)
        foreign.shutdown()


def test_meta_world_in_another_process(server):
    pytest.importorskip("metaworld", reason="pip install 'xwam[sim]'")
    script = Path(__file__).with_name("metaworld_robot.py")
    done = subprocess.run(
        [sys.executable, str(script), str(server.port), "wait", "9"],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},  # some test may have set others
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert np.array(told["action"]).shape == (9, 14)
    assert not any(told["is_held"])
    assert np.flatnonzero(told["is_first"]).tolist() == [0, 4, 8]
    assert np.abs(told["action"]).max() > 1e-3
    assert not told["has_policy"], "the robot's process knows no network"


def test_a_robot_whose_server_is_gone_says_so(make_service, robot):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Running(make_service()))
        client = Client(port=server.port, connect_seconds=3)
        step, leave = robot.step, stack.pop_all()

        def dies_after_some_steps(action):
            if len(robot.played) == 2:
                leave.close()
            return step(action)

        robot.step = dies_after_some_steps
        with client, pytest.raises(ConnectionError):
            rollout(robot, client, seed=2, replan_every=4, max_steps=100_000)


def test_the_calibration_of_an_observation_reaches_the_policy(client, policy, monkeypatch):
    name = CONFIG.view_names[0]
    pose = np.eye(4)
    pose[:3, 3] = (0.1, 0.2, 0.3)
    size = {"width": CONFIG.clip.width_px, "height": CONFIG.clip.height_px, "near_m": 0.2, "far_m": 3.0}
    camera = Camera(name=name, intrinsics=np.diag([30.0, 30.0, 1.0]), base_from_camera=pose, **size)
    seen, plain = [], policy.predict_stepwise

    def listen(observations, *rest, **more):
        seen.extend(observations)
        return plain(observations, *rest, **more)

    monkeypatch.setattr(policy, "predict_stepwise", listen)
    client.infer(replace(SEEN, cameras={name: camera}))
    (found,) = seen[0].cameras.values()
    assert (found.name, found.width, found.near_m, found.far_m) == (name, camera.width, 0.2, 3.0)
    np.testing.assert_array_equal(found.base_from_camera, pose)
    client.infer(SimpleNamespace(**vars(SEEN) | {"cameras": {name: vars(camera) | {"depth_at": 0.25}}}))
    told = seen[1].cameras[name]
    assert (told.width, told.near_m, told.depth_at) == (camera.width, 0.2, 0.25), "a map says the same"
    mirrored = SimpleNamespace(**vars(camera) | {"base_from_camera": np.diag([1.0, 1.0, -1.0, 1.0])})
    with pytest.raises(RefusedError, match="needs a rotation"):
        client.infer(SimpleNamespace(**vars(SEEN) | {"cameras": {name: mirrored}}))


def test_an_address_that_is_none_is_refused_at_once():
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"ws://gpu-box:8000:8000: .*Port could not be cast"):
        Client("gpu-box:8000", connect_seconds=30)
    assert time.monotonic() - began < 5
