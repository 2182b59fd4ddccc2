"""Playing chunks, with a server whose answers are late by a known number of control periods. No network, no clock."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from xwam_client.chunks import Chunks
from xwam_client.protocol import PAUSE_S, RefusedError

HORIZON = 16
PARTS = [{"kind": "delta_position", "size": 1}, {"kind": "gripper_command", "size": 1}]


class LateServer:
    """Answers ``delay`` periods after the question. Row ``i`` of answer ``n`` is ``[100 n + i, n]``."""

    def __init__(self, delay: int) -> None:
        self.delay, self.now, self.asked, self.due = delay, 0, [], []

    def ask(self, observation, **asked) -> Future:
        self.asked.append({"at": self.now, "observation": observation, **asked})
        number, future = len(self.asked) - 1, Future()
        actions = np.stack([100.0 * number + np.arange(HORIZON), np.full(HORIZON, number)], axis=1)
        self.due.append((self.now + self.delay, future, {"actions": actions.astype(np.float32)}))
        self.tick(0)
        return future

    def tick(self, periods: int = 1) -> None:
        self.now += periods
        for at, future, answer in self.due:
            if at <= self.now and not future.done():
                future.set_result(answer)


def run(play: str, delay: int, periods: int = 40, replan_every: int = 8, parts=PARTS):
    server = LateServer(0)
    chunks = Chunks(server.ask, parts, play=play, replan_every=replan_every, seed=50)
    chunks.settle(lambda: 0)
    server.delay = delay
    commands = []
    for _ in range(periods):
        commands.append(chunks.next_action(lambda: server.now))
        server.tick()
    return server, chunks, commands


def rows(commands) -> list[int | None]:
    return [None if command.is_held else int(command.action[0]) for command in commands]


def test_waiting_plays_whole_pieces_and_stands_still_between():
    server, _, commands = run("wait", delay=3, periods=22)
    assert rows(commands) == [*range(8), None, None, None, *range(100, 108), None, None, None]
    assert [asked["at"] for asked in server.asked] == [0, 8, 19]
    held = commands[8].action
    assert held.tolist() == [0.0, 0.0], "no motion; the gripper keeps what it was told by answer 0"
    assert commands[-1].action.tolist() == [0.0, 1.0], "the gripper keeps what it was told by answer 1"


def test_a_gripper_told_to_change_stands_still_in_a_pause_too():
    parts = [PARTS[0], {"kind": "delta_gripper", "size": 1}]
    _, _, commands = run("wait", delay=3, periods=22, parts=parts)
    assert commands[-1].is_held
    assert commands[-1].action.tolist() == [0.0, 0.0], "repeated, it would go on closing"


def test_overlapping_never_stands_still_and_joins_where_the_answer_belongs():
    server, chunks, commands = run("overlap", delay=3, periods=22)
    assert rows(commands) == [*range(11), *range(103, 111), *range(203, 206)]
    assert [asked["at"] for asked in server.asked] == [0, 8, 16]
    assert list(chunks.delays) == [0, 3, 3]
    assert [i for i, command in enumerate(commands) if command.is_first] == [0, 11, 19]
    assert all("prefix" not in asked for asked in server.asked)


def test_real_time_play_says_what_will_be_played_meanwhile():
    server, _, commands = run("realtime", delay=3, periods=30)
    assert rows(commands)[:19] == [*range(11), *range(103, 111)]
    first, second, third, *_ = server.asked
    assert "prefix" not in first
    assert second["prefix"][:, 0].tolist() == list(range(8, 16))
    assert second["num_committed"] == 0, "no delay was ever measured before"
    assert third["prefix"][:, 0].tolist() == list(range(108, 116))
    assert third["num_committed"] == 3
    played = [int(c.action[0]) for c in commands[third["at"] : third["at"] + 3]]
    assert played == third["prefix"][:3, 0].tolist(), "what was said to be committed is what is played"


def test_seeds_count_up_and_observations_are_of_the_moment():
    server, _, _ = run("realtime", delay=2)
    assert [asked["seed"] for asked in server.asked] == [50 + n for n in range(len(server.asked))]
    assert [asked["observation"] for asked in server.asked] == [asked["at"] for asked in server.asked]


def test_an_answer_that_is_later_than_the_chunk_is_long_makes_it_hold_and_join_behind_what_was_played():
    _, chunks, commands = run("overlap", delay=12, periods=24)
    assert rows(commands)[:24] == [*range(16), None, None, None, None, *range(108, 112)]
    assert chunks.delays[-1] == 12


def test_the_longest_of_the_latest_delays_is_expected():
    server, chunks, _ = run("realtime", delay=2)
    chunks._expected.append(5)
    before = len(server.asked)
    while len(server.asked) == before:
        chunks.next_action(lambda: 0)
        server.tick()
    assert server.asked[-1]["num_committed"] == 5


def test_an_answer_for_which_the_robot_stood_still_is_not_expected_again():
    server, chunks, commands = run("realtime", delay=14, periods=24)
    assert sum(command.is_held for command in commands) == 6, "14 periods late, 8 rows left"
    assert chunks.delays == [0, 14]
    server.delay = 3
    for _ in range(24):
        chunks.next_action(lambda: server.now)
        server.tick()
    assert [asked["num_committed"] for asked in server.asked[1:]] == [0, 0, 0, 3]


def play_on(server, chunks, periods: int):
    commands = []
    for _ in range(periods):
        commands.append(chunks.next_action(lambda: server.now))
        server.tick()
    return commands


@pytest.fixture
def without_pauses(monkeypatch):
    """A failed question is put again in the next control period."""
    monkeypatch.setattr("xwam_client.chunks.PAUSE_S", 0.0)


@pytest.mark.parametrize("play", ["overlap", "realtime"])
def test_an_answer_of_a_world_long_gone_is_not_played_but_asked_for_once_more(play, without_pauses):
    server, chunks, _ = run(play, delay=2, periods=8)
    server.delay = HORIZON + 4  # a freeze: so late was no answer before
    commands = play_on(server, chunks, 21)
    assert rows(commands) == [*range(8, 16), *[None] * 13]
    assert chunks.delays == [0, HORIZON + 4]
    assert str(chunks.trouble) == "answers take 20 periods, a chunk has 16."
    assert [asked["at"] for asked in server.asked] == [0, 8, 28]
    commands = play_on(server, chunks, 20)
    assert rows(commands)[-1] == 200, "as late as the last one, and what was seen has not moved since: it is played"
    assert chunks.trouble is None


@pytest.mark.parametrize(("play", "num_dropped"), [("wait", 0), ("overlap", 1), ("realtime", 1)])
def test_a_server_that_is_slower_than_a_chunk_is_long_still_moves_the_robot(play, num_dropped, without_pauses):
    """Where the robot stood still since it was seen, an answer fits; others are dropped once, not for ever."""
    late = 3 * HORIZON + 9
    _, chunks, commands = run(play, delay=late, periods=20 * late)
    assert set(chunks.delays[1:]) == {late}
    first = [int(command.action[0]) for command in commands if command.is_first]
    assert len(first) == len(chunks.delays) - num_dropped
    assert sum(not command.is_held for command in commands) >= 8 * (len(first) - 1)
    chosen = {int(command.action[0]) // 100 for command in commands if not command.is_held}
    assert sorted({*range(len(chunks.delays))} - chosen) == [1][:num_dropped]


def test_a_robot_that_stood_still_for_very_long_is_looked_at_anew_once(without_pauses):
    late = 5 * HORIZON
    _, chunks, commands = run("wait", delay=late, periods=5 * late)
    first = [int(command.action[0]) // 100 for command in commands if command.is_first]
    assert first == [0, *range(2, len(chunks.delays))]
    assert len(first) > 2


def test_a_refused_question_is_not_put_again_in_every_control_period():
    """With all pictures, to a server that is busy already."""
    server, chunks, _ = run("overlap", delay=2, periods=8)
    asked = []

    def ask(observation, **_):
        asked.append(time.monotonic())
        future = Future()
        future.set_exception(RefusedError("busy", "queue is full"))
        return future

    chunks.ask = ask
    began = time.monotonic()
    commands = play_on(server, chunks, 10)
    took = time.monotonic() - began
    assert len(asked) <= 1 + took / PAUSE_S
    assert rows(commands) == [*range(8, 16), None, None], "meanwhile it plays on, then it holds"
    time.sleep(PAUSE_S)
    number = len(asked)
    chunks.next_action(lambda: 0)
    assert len(asked) == number + 1


@pytest.mark.parametrize("error", [ConnectionError("lost"), RefusedError("busy", "queue is full")])
def test_a_lost_question_is_asked_again_and_the_old_chunk_played_on(error, without_pauses):
    server, chunks, _ = run("overlap", delay=2, periods=8)
    plain, failures = server.ask, [error, error]

    def ask(observation, **asked):
        if failures:
            future = Future()
            future.set_exception(failures.pop())
            return future
        return plain(observation, **asked)

    chunks.ask = ask
    commands = play_on(server, chunks, 6)
    assert rows(commands) == [8, 9, 10, 11, 102, 103]
    assert not any(command.is_held for command in commands)
    assert not failures


@pytest.mark.parametrize(("action_hz", "least"), [(50.0, 5), (None, 0)])
def test_the_first_answer_tells_how_late_the_next_may_be(action_hz, least):
    def ask(observation, **asked):
        future = Future()
        threading.Timer(0.2, future.set_result, [{"actions": np.zeros((HORIZON, 2), np.float32)}]).start()
        return future

    chunks = Chunks(ask, PARTS, replan_every=4, action_hz=action_hz)
    chunks.settle(lambda: 0)
    assert chunks.delays[0] >= least
    assert (chunks.delays[0] == 0) == (action_hz is None)


def test_other_refusals_are_raised():
    def ask(observation, **asked):
        future = Future()
        future.set_exception(RefusedError("absurd_state", "state is absurd"))
        return future

    chunks = Chunks(ask, PARTS, play="wait", replan_every=4)
    with pytest.raises(RefusedError, match="absurd"):
        chunks.settle(lambda: 0)


def test_nothing_moves_before_the_first_answer():
    server = LateServer(delay=3)
    chunks = Chunks(server.ask, PARTS, replan_every=4)
    with pytest.raises(ValueError, match="settle"):
        chunks.next_action(lambda: 0)
    with pytest.raises(ValueError, match="play='naive'"):
        Chunks(server.ask, PARTS, play="naive", replan_every=4)
    with pytest.raises(ValueError, match="replan_every=0"):
        Chunks(server.ask, PARTS, replan_every=0)


def test_without_a_seed_none_is_sent_so_that_robots_share_batches():
    server = LateServer(0)
    Chunks(server.ask, PARTS, replan_every=4).settle(lambda: 0)
    assert "seed" not in server.asked[0]


def test_settling_ends_when_nobody_answers():
    def ask(observation, **asked):
        future = Future()
        future.set_exception(ConnectionError("no xwam server at ws://gpu-box:8000"))
        return future

    chunks, began = Chunks(ask, PARTS, replan_every=4), time.monotonic()
    with pytest.raises(ConnectionError, match="gpu-box"):
        chunks.settle(lambda: 0, timeout_s=0.3)
    assert 0.1 < time.monotonic() - began < 5
    assert isinstance(chunks.trouble, ConnectionError)
