"""Playing chunks, with a server whose answers are late by a known number of control periods. No network, no clock."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from xwam_client.chunks import Chunks
from xwam_client.protocol import RefusedError

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


def test_an_answer_of_a_world_long_gone_is_not_played():
    """After a freeze the robot stands still; what was decided before it is asked again."""
    server, chunks, commands = run("realtime", delay=HORIZON + 4, periods=40)
    assert rows(commands)[:16] == [*range(16)]
    assert all(command.is_held for command in commands[16:])
    assert chunks.delays == [0, HORIZON + 4]
    assert len(server.asked) == 3
    server.delay = 0
    server.tick(HORIZON)
    chunks.settle(lambda: server.now)
    assert not chunks.next_action(lambda: server.now).is_held


@pytest.mark.parametrize("error", [ConnectionError("lost"), RefusedError("busy", "queue is full")])
def test_a_lost_question_is_asked_again_and_the_old_chunk_played_on(error):
    server, chunks, _ = run("overlap", delay=2, periods=8)
    plain, failures = server.ask, [error, error]

    def ask(observation, **asked):
        if failures:
            future = Future()
            future.set_exception(failures.pop())
            return future
        return plain(observation, **asked)

    chunks.ask = ask
    commands = []
    for _ in range(6):
        commands.append(chunks.next_action(lambda: server.now))
        server.tick()
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
