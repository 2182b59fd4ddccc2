"""A robot's own numbers in, its own commands out: recorded commands come back, here and over the wire."""

import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from xwam_client.client import Client

from tests.client.conftest import RunningAt
from tests.data.foreign import ARM, path_of, written
from tests.examples import make_cameras, make_observation
from tests.serve.conftest import CONFIG, Running
from tests.train.encoded import write_checkpoint
from xwam.data.lerobot_format import video_key
from xwam.policy import load_policy
from xwam.robot.columns import read_action
from xwam.robot.normalizer import Normalizer
from xwam.robot.parts import PartSource
from xwam.robot.robot_json import RobotConfig, layout_of
from xwam.serve.player import Answers, Player, answers_of_checkpoint, answers_of_server
from xwam.serve.service import ServeConfig, Service, load_service
from xwam.train.checkpoint import Robot

HORIZON, STEPS = 8, 24
BLACK = {camera.key: np.zeros((32, 32, 3), np.uint8) for camera in ARM.cameras}


class Recorded:
    """Answers with the actions that were recorded from this moment on, and keeps what it was shown."""

    def __init__(self, robot: RobotConfig, actions: np.ndarray) -> None:
        self.actions, self.now, self.seen = actions, 0, []
        names = robot.view_names
        self.answers = Answers(
            self.ask, layout_of(robot), robot.action_hz, HORIZON, names, robot, lambda: None
        )  # fmt: skip

    def ask(self, observation, **asked) -> Future:
        self.seen.append(observation)
        future: Future = Future()
        rows = self.actions[self.now : self.now + HORIZON]
        future.set_result({"actions": np.concatenate([rows, np.zeros((HORIZON - len(rows), rows.shape[1]))])})
        return future


def lagging(number: int) -> tuple[np.ndarray, np.ndarray]:
    """States that never reach their targets in time, as on real arms, and the targets."""
    state, target = written(number, STEPS)
    ahead, _ = written(number, STEPS + 6)
    target[:, :7] = ahead[6:, :7]
    return state, target


@pytest.mark.parametrize("frames_per_action", [1, 2])
def test_recorded_commands_come_back(frames_per_action):
    """Targets are counted from where the robot is, not from where it would be if it had kept up."""
    robot = replace(ARM, frames_per_action=frames_per_action, action_hz=20.0 / frames_per_action)
    state, target = lagging(3)
    target = np.repeat(target[frames_per_action - 1 :: frames_per_action], frames_per_action, axis=0)
    recorded = Recorded(robot, read_action(robot, {"observation.state": state, "action": target}))
    player = Player(recorded.answers, play="wait", replan_every=4)
    assert player.fps == 20
    for frame in range(STEPS):
        recorded.now = frame // frames_per_action
        command = player.command({"observation.state": state[frame]}, BLACK, "pick up cup 0")["action"]
        turned = np.sign(command[3:7] @ target[frame, 3:7])
        command[3:7] *= turned
        np.testing.assert_allclose(command, target[frame], atol=1e-4)
    assert len(recorded.seen) == STEPS // (4 * frames_per_action)
    position, _, opening = path_of(3)
    np.testing.assert_allclose(recorded.seen[0].state[:3], position[0], atol=1e-6)
    np.testing.assert_allclose(recorded.seen[0].state[7], opening[0], atol=1e-6)


def test_pictures_are_turned_as_the_data_were():
    front = replace(ARM.cameras[0], upside_down=True)
    robot = replace(ARM, cameras=(front, ARM.cameras[1]))
    state, target = written(0)
    recorded = Recorded(robot, read_action(robot, {"observation.state": state, "action": target}))
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Player(recorded.answers).command(
        {"observation.state": state[0]}, {camera.key: picture for camera in robot.cameras}, "pick up cup 0"
    )
    np.testing.assert_array_equal(recorded.seen[0].images["front"], picture[::-1, ::-1])
    np.testing.assert_array_equal(recorded.seen[0].images["wrist"], picture)


def test_a_robot_that_tells_nothing_of_itself_is_moved_by_changes():
    wheels = PartSource(what="joints", key="action", size=2, reference="delta")
    robot = replace(ARM, state=(), action=(wheels,), state_width=4, action_width=4)
    speeds = np.random.default_rng(0).normal(size=(STEPS, 2))
    recorded = Recorded(robot, read_action(robot, {"action": speeds}))
    player = Player(recorded.answers, play="wait", replan_every=HORIZON)
    for speed in speeds[:HORIZON]:
        np.testing.assert_allclose(player.command({}, BLACK, "go")["action"], speed, atol=1e-6)
    assert recorded.seen[0].state.tolist() == [0, 0, 0, 0]


def test_what_is_missing_is_named():
    state, target = written(0)
    recorded = Recorded(ARM, read_action(ARM, {"observation.state": state, "action": target}))
    player, seen = Player(recorded.answers), {"observation.state": state[0]}
    with pytest.raises(ValueError, match=r"column='observation.state' is missing.*observation.stat\b"):
        player.command({"observation.stat": state[0]}, BLACK, "go")
    with pytest.raises(ValueError, match=r"has shape \(7,\): must be one row of 8 or more"):
        player.command({"observation.state": state[0, :7]}, BLACK, "go")
    with pytest.raises(ValueError, match=r"image='observation.images.cam_high' \(camera 'front'\) is missing"):
        player.command(seen, {"cam_high": BLACK["observation.images.cam_high"]}, "go")
    metres = replace(ARM.state[0], unit="m", frame="world")
    other = replace(ARM, state=(metres, *ARM.state[1:]))
    with pytest.raises(ValueError, match="state left_position: frame='world', not 'base'"):
        Player(recorded.answers._replace(robot=other))


def never(observation, **asked) -> Future:
    """A question whose answer does not come."""
    return Future()


def test_a_robot_that_must_wait_keeps_its_targets():
    """Nothing is left to play, and the arm sinks: a target of "here" would sink with it."""
    state, target = written(3, STEPS)
    recorded = Recorded(ARM, read_action(ARM, {"observation.state": state, "action": target}))
    player = Player(recorded.answers, play="overlap", replan_every=2)
    recorded.now = 0
    player.command({"observation.state": state[0]}, BLACK, "go")
    player._chunks.ask = never
    sent = [player.command({"observation.state": state[step]}, BLACK, "go")["action"] for step in range(1, HORIZON)]
    for sag in (10.0, 20.0, 30.0):
        sunk = state[HORIZON] - [0, 0, sag, 0, 0, 0, 0, 0]
        held = player.command({"observation.state": sunk}, BLACK, "go")["action"]
        np.testing.assert_array_equal(held, sent[-1])

    changes = tuple(replace(part, reference="delta") for part in ARM.action[:2])
    robot = replace(ARM, action=(*changes, ARM.action[2]))
    answers = recorded.answers._replace(robot=robot, layout=layout_of(robot))
    player = Player(answers, play="overlap", replan_every=2)
    player.command({"observation.state": state[0]}, BLACK, "go")
    player._chunks.ask = never
    for step in range(1, HORIZON + 1):
        held = player.command({"observation.state": state[step]}, BLACK, "go")["action"]
    np.testing.assert_allclose(held[:3], 0, atol=1e-9)
    np.testing.assert_allclose(np.abs(held[3:7]), [0, 0, 0, 1], atol=1e-9)
    assert held[7] == pytest.approx(target[HORIZON - 1, 7], abs=1e-6), "a gripper keeps what it was told"


def test_a_robot_whose_server_is_gone_is_told():
    state, target = written(0)
    recorded = Recorded(ARM, read_action(ARM, {"observation.state": state, "action": target}))
    player = Player(recorded.answers, play="overlap", replan_every=2, timeout_s=0.0)

    def lost(observation, **asked):
        future: Future = Future()
        future.set_exception(ConnectionError("no xwam server at ws://gpu-box"))
        return future

    seen = {"observation.state": state[0]}
    player.command(seen, BLACK, "go")
    player._chunks.ask = lost
    for _ in range(HORIZON):  # what it has is played to the end, and then once more
        player.command(seen, BLACK, "go")
    with pytest.raises(ConnectionError, match="gpu-box"):
        player.command(seen, BLACK, "go")
    player.reset()  # a new episode asks anew, whatever was under way
    player.command(seen, BLACK, "go")
    mute = Player(recorded.answers._replace(ask=never), timeout_s=0.05)
    with pytest.raises(ConnectionError, match=r"no answer has come for 0.05 s"):
        mute.command(seen, BLACK, "go")


def test_a_slot_that_nobody_names_would_be_sent_as_zero():
    """A joint would be driven there."""
    part = PartSource(what="joints", key="action", size=2)
    state = PartSource(what="joints", key="observation.state", size=4)
    gripper = PartSource(what="gripper", key="action", start=3)
    robot = replace(ARM, state=(state,), action=(part, gripper))
    answers = Answers(never, layout_of(robot), 20.0, HORIZON, robot.view_names, robot, lambda: None)
    with pytest.raises(ValueError, match=r"no part names slot 2 of 'action'.*as joints"):
        Player(answers)


def test_words_and_numbers_are_looked_at_before_anything_is_sent():
    robot = replace(ARM, instruction="pick up the cup")
    state, target = written(0)
    recorded = Recorded(robot, read_action(robot, {"observation.state": state, "action": target}))
    player = Player(recorded.answers)
    player.command({"observation.state": state[0]}, BLACK, "")
    assert recorded.seen[0].instruction == "pick up the cup"
    broken = state[1].copy()
    broken[0] = np.nan
    with pytest.raises(ValueError, match="state"):
        player.command({"observation.state": broken}, BLACK, "")


@pytest.fixture(scope="module")
def their_checkpoint(tmp_path_factory):
    """Random weights behind a robot.json."""
    config = replace(CONFIG, view_names=ARM.view_names, model=replace(CONFIG.model, num_views=2))
    layout = layout_of(ARM)
    bounds = {"state_q01": np.full(16, -1.0), "state_q99": np.full(16, 1.0)}
    bounds |= {"action_q01": np.full(14, -0.05), "action_q99": np.full(14, 0.05)}
    robot = Robot(Normalizer(layout=layout, **bounds), make_cameras(config), ARM)
    return write_checkpoint(tmp_path_factory.mktemp("theirs"), config, robot)


def test_over_the_wire_and_in_one_process_the_same_is_played(their_checkpoint):
    """The server tells the robot's file too: whoever drives the robot needs nothing else."""
    state, _ = written(1, 12)
    pictures = [
        {key: np.full((32, 32, 3), 10 * frame + 5, np.uint8) for key in BLACK} for frame in range(len(state))
    ]  # fmt: skip

    def play(player: Player) -> np.ndarray:
        rows = zip(state, pictures, strict=True)
        return np.array([player.command({"observation.state": row}, seen, "go")["action"] for row, seen in rows])

    here = play(Player(answers_of_checkpoint(their_checkpoint), replan_every=4))
    assert np.ptp(here, axis=0).min() > 0, "every number changes"
    service = load_service(their_checkpoint, ServeConfig(max_batch=1), with_world=False)
    with Running(service) as server, Client(port=server.port) as client:
        answers = answers_of_server(client)
        assert answers.robot == ARM
        player = Player(answers, replan_every=4)
        np.testing.assert_array_equal(play(player), here)
        player.reset()
        np.testing.assert_array_equal(play(player), here, "an episode can be played again")
        overlapping = play(Player(answers, play="realtime", replan_every=4))
    assert np.isfinite(overlapping).all()


def test_a_server_that_comes_back_with_another_robot_is_not_asked(their_checkpoint):
    """Its layout is the same, and its numbers mean something else."""
    state, _ = written(1, 12)
    seen = {"observation.state": state[0]}
    config = ServeConfig(max_batch=1)
    changes = replace(ARM, action=(replace(ARM.action[0], reference="delta"), *ARM.action[1:]))
    assert layout_of(changes) == layout_of(ARM)
    policy = load_policy(their_checkpoint, with_world=False)
    with Running(Service(policy, config, name="debug", hash_="0" * 16, robot=ARM)) as first:
        client = Client(port=first.port, connect_seconds=30)
        player = Player(answers_of_server(client), timeout_s=30.0)
        player.command(seen, BLACK, "go")
    with RunningAt(Service(policy, config, name="debug", hash_="0" * 16, robot=changes), first.port), client:
        while client.metadata["robot"]["action"][0]["reference"] != "delta":
            time.sleep(0.05)
        player.reset()
        with pytest.raises(ValueError, match="now has another robot: nothing was asked"):
            player.command(seen, BLACK, "go")


def test_an_absurd_state_is_refused_in_one_process_as_well(their_checkpoint):
    """Metres where millimetres are meant: a server would refuse it, and nothing may move here either."""
    state, _ = written(1, 12)
    metres = state[0].copy()
    metres[:3] *= 1000
    player = Player(answers_of_checkpoint(their_checkpoint), replan_every=4)
    with pytest.raises(ValueError, match=r"this checkpoint has seen nothing outside .* by far; check units"):
        player.command({"observation.state": metres}, BLACK, "go")


def test_a_server_that_tells_no_robot_is_refused(running):
    with Client(port=running.port, connect_seconds=30) as client:
        answers_of_server(client)
        del client.metadata["robot"]  # as servers did before they told it
        with pytest.raises(ValueError, match=r"does not tell its robot.json.*update it"):
            answers_of_server(client)


def test_without_a_robot_file_the_numbers_are_the_layouts_own(served_folder):
    policy, observation = load_policy(served_folder), make_observation(CONFIG)
    player = Player(answers_of_checkpoint(served_folder), replan_every=8)
    assert player.state_widths == {"observation.state": 16}
    assert player.action_widths == {"action": 14}
    pictures = {video_key(name): observation.images[name] for name in CONFIG.view_names}
    seen = replace(observation, cameras={})
    expected = next(iter(policy.predict(seen, seed=0, actions_only=True))).action
    for row in expected[:8]:
        played = player.command({"observation.state": observation.state}, pictures, observation.instruction)
        np.testing.assert_allclose(played["action"], row, atol=1e-6)


def test_a_watched_checkpoint_imagines_the_world_of_what_it_answers(served_folder):
    worlds, observation = [], make_observation(CONFIG)
    answers = answers_of_checkpoint(served_folder, watch=worlds.append)
    assert not worlds, "warming up is nobody's world"
    seen = replace(observation, cameras={})
    played = answers.ask(seen, seed=3).result()["actions"]
    *_, expected = load_policy(served_folder).predict(seen, seed=3)
    assert len(worlds) == 1
    np.testing.assert_array_equal(worlds[0].video, expected.video)
    np.testing.assert_array_equal(played, expected.action)
