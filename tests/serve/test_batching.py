"""The worker's order, seen from inside: what really ran, step by step, with a real policy."""

import queue
import threading

import numpy as np
import pytest
from xwam_client.protocol import RefusedError

from tests.examples import make_observation
from tests.serve.conftest import CONFIG
from xwam.denoise.sampler import StepDone
from xwam.serve.batching import Worker
from xwam.serve.metrics import Metrics
from xwam.serve.request import Request
from xwam.serve.ticket import Answer, Refused, Ticket
from xwam.serve.wire import RULES


class Watched:
    """The policy's own generator, each of its events written down; ``at`` runs something at one of them."""

    def __init__(self, policy, monkeypatch) -> None:
        self.log, self.at, self._real = [], {}, policy.predict_stepwise
        monkeypatch.setattr(policy, "predict_stepwise", self)

    def __call__(self, observations, seeds, *rest, **more):
        name, answers = tuple(seeds), 0
        try:
            for event in self._real(observations, seeds, *rest, **more):
                answers += not isinstance(event, StepDone)
                what = "step" if isinstance(event, StepDone) else "actions" if answers == 1 else "world"
                self.log.append((name, what if what != "step" or answers else "early"))
                self.at.pop(self.log[-1], lambda: None)()
                yield event
        finally:
            self.log.append((name, "end"))

    def run(self, *names):
        """The order of the news, without the steps before actions."""
        return [entry for entry in self.log if entry[1] not in ("early", "end") and entry[0] in names]


class Robot:
    """Asks the worker; hears from it in a queue."""

    def __init__(self, worker, session="s") -> None:
        self.worker, self.session, self.heard = worker, session, queue.Queue()

    def ask(self, seed=0, **more) -> Ticket:
        request = Request(observation=make_observation(CONFIG), seed=seed, **more)
        ticket = Ticket(request, self.session, self.heard.put)
        self.worker.submit(ticket)
        return ticket

    def hear(self) -> Answer | Refused:
        return self.heard.get(timeout=60)


@pytest.fixture
def watched(policy, monkeypatch):
    return Watched(policy, monkeypatch)


@pytest.fixture
def worker(policy, watched):
    worker = Worker(policy, Metrics(RULES), max_queue=4, batch_sizes=(1, 2, 3), batch_window_s=0.0, max_bytes=1 << 30)
    yield worker
    worker.stop()


def test_actions_go_between_the_steps_of_a_world(worker, watched, policy):
    slow, quick = Robot(worker, "slow"), Robot(worker, "quick")
    watched.at[((1,), "step")] = lambda: quick.ask(seed=2)
    slow.ask(seed=1, world=True)
    worker.start()
    first, now, later = slow.hear(), quick.hear(), slow.hear()
    assert (first.part, now.part, later.part) == ("actions", "actions", "world")
    order = watched.run((1,), (2,))
    assert order[:4] == [((1,), "actions"), ((1,), "step"), ((2,), "actions"), ((1,), "step")]
    assert order[-1] == ((1,), "world")
    assert worker.metrics.counts() | {"actions": 2, "world": 1} == worker.metrics.counts()
    alone_now, alone_later = policy.predict(make_observation(CONFIG), seed=1)
    np.testing.assert_array_equal(first.prediction.action, alone_now.action)
    np.testing.assert_array_equal(later.prediction.video, alone_later.video)
    np.testing.assert_array_equal(later.prediction.depth, alone_later.depth)


def test_what_prepares_the_policy_runs_in_the_thread_that_answers(worker, watched):
    """Settings of torch's compiler hold in one thread; the future tells when it is done, or why it failed."""
    threads = []
    watched.at[((1,), "actions")] = lambda: threads.append(threading.current_thread())
    robot = Robot(worker)
    robot.ask(seed=1)
    worker.start(lambda: threads.append(threading.current_thread())).result(60)
    assert robot.hear().part == "actions"
    assert threads[0] is threads[1] is not threading.current_thread()


def test_what_prepares_the_policy_may_fail(worker, watched):
    def fails():
        raise MemoryError("too small")

    with pytest.raises(MemoryError, match="too small"):
        worker.start(fails).result(60)
    worker.stop()
    assert not worker.is_alive


def test_decoding_is_interrupted_too(worker, watched):
    """The last pause of a world lies before its last view is decoded."""
    slow, quick = Robot(worker, "slow"), Robot(worker, "quick")
    slow.ask(seed=1, world=True)
    worker.start()
    slow.hear(), slow.hear()
    num_steps = watched.run((1,)).count(((1,), "step"))
    views = len(CONFIG.view_names)
    denoising = CONFIG.denoise.num_video_steps - CONFIG.denoise.num_action_steps
    assert num_steps >= denoising - 1 + 2 * views
    watched.log.clear()
    steps = iter(range(num_steps))

    def count():
        if next(steps) == num_steps - 1:
            quick.ask(seed=2)
        else:
            watched.at[((1,), "step")] = count

    watched.at[((1,), "step")] = count
    slow.ask(seed=1, world=True)
    quick.hear()
    assert slow.hear().part == "actions"
    assert slow.hear().part == "world"
    assert watched.run((1,), (2,))[-2:] == [((2,), "actions"), ((1,), "world")]


def test_worlds_wait_for_all_actions_and_keep_their_order(worker, watched):
    robots = [Robot(worker, f"{i}") for i in range(4)]
    for seed, robot in enumerate(robots):
        robot.ask(seed=seed, world=seed < 2, is_alone=True)
    worker.start()
    for robot in robots[:2]:
        assert [robot.hear().part, robot.hear().part] == ["actions", "world"]
    news = [entry for entry in watched.run(*[(i,) for i in range(4)]) if entry[1] != "step"]
    assert [what for _, what in news] == ["actions"] * 4 + ["world"] * 2
    assert [name for name, _ in news[4:]] == [(0,), (1,)]


def test_a_new_observation_drops_the_sessions_old_world(worker, watched):
    robot, other = Robot(worker), Robot(worker, "other")
    watched.at[((1,), "step")] = lambda: robot.ask(seed=2)
    robot.ask(seed=1, world=True)
    worker.start()
    assert robot.hear().part == "actions"
    refused, newer = robot.hear(), robot.hear()
    assert (refused.part, refused.error.rule) == ("world", "superseded")
    assert newer.part == "actions"
    other.ask(seed=3)
    other.hear()
    assert watched.run((1,)) == [((1,), "actions"), ((1,), "step")]
    assert len(worker) == 0
    worker.stop()
    assert ((1,), "end") in watched.log


def test_worlds_that_nobody_waits_for_are_not_kept(worker, watched):
    """Robots that ask again and again, faster than worlds can be made, must not fill the memory."""
    robot, kept = Robot(worker), []
    for seed in range(1, 6):
        watched.at[((seed,), "actions")] = lambda seed=seed: (
            kept.append(len(worker._worlds)),
            robot.ask(seed=seed + 1, world=True),
        )
    robot.ask(seed=1, world=True)
    worker.start()
    heard = [robot.hear() for _ in range(5 + 5 + 2)]
    assert [h.part for h in heard if isinstance(h, Answer)] == ["actions"] * 6 + ["world"]
    assert {h.error.rule for h in heard if isinstance(h, Refused)} == {"superseded"}
    assert max(kept) <= 1, "each of them was dropped when the next batch began"


def test_superseded_before_its_actions_still_gets_them(worker):
    robot = Robot(worker)
    robot.ask(seed=1, world=True)
    robot.ask(seed=2)
    worker.start()
    heard = [robot.hear() for _ in range(3)]
    assert [h.part for h in heard if isinstance(h, Answer)] == ["actions", "actions"]
    assert [(h.part, h.error.rule) for h in heard if isinstance(h, Refused)] == [("world", "superseded")]


def test_dropping_and_reset(worker, watched):
    robot = Robot(worker)
    waiting = robot.ask(seed=1, world=True)
    assert worker.drop(lambda ticket: ticket is waiting, "cancelled", "no longer wanted") == 1
    assert worker.drop(lambda ticket: ticket is waiting, "cancelled", "again") == 0
    refused = robot.hear()
    assert (refused.part, refused.error.rule) == ("actions", "cancelled")
    robot.ask(seed=2)
    robot.ask(seed=3, reset=True)
    assert robot.hear().error.rule == "cancelled"
    worker.start()
    assert robot.hear().prediction.seed == 3
    assert watched.run((1,), (2,)) == []


def test_beyond_the_queue_a_refusal_at_once(worker):
    robots = [Robot(worker, f"{i}") for i in range(5)]
    for robot in robots[:4]:
        robot.ask()
    with pytest.raises(RefusedError, match="queue=4") as refused:
        robots[4].ask()
    assert refused.value.rule == "busy"
    worker.start()
    assert all(robot.hear().part == "actions" for robot in robots[:4])
    robots[4].ask()
    assert robots[4].hear().part == "actions"


def test_in_a_full_queue_worlds_make_room_for_actions(worker, watched):
    """Three worlds are owed, the newest goes; actions that are owed never do."""
    robots = [Robot(worker, f"{i}") for i in range(6)]
    worker.max_queue = 3
    full = threading.Event()
    watched.at[((1, 2, 3), "step")] = lambda: (robots[3].ask(seed=4), full.set())
    for number, robot in enumerate(robots[:3]):
        robot.ask(seed=number + 1, world=True)
    worker.start()
    assert [robot.hear().part for robot in robots[:3]] == ["actions"] * 3
    assert full.wait(60)
    given_up = robots[2].hear()
    assert (given_up.part, given_up.error.rule) == ("world", "busy")
    assert robots[3].hear().part == "actions"
    assert [robot.hear().part for robot in robots[:2]] == ["world", "world"]


def test_beyond_the_memory_for_waiting_requests_a_refusal_at_once(worker):
    """The bound counts the images of all robots together; what is answered makes room."""
    robots = [Robot(worker, f"{i}") for i in range(3)]
    one = robots[0].ask().request.num_bytes
    assert one == sum(image.nbytes for image in make_observation(CONFIG).images.values())
    worker.max_bytes = 2 * one
    robots[1].ask()
    assert worker.num_bytes == 2 * one
    with pytest.raises(RefusedError, match=f"max_bytes={2 * one}") as refused:
        robots[2].ask()
    assert refused.value.rule == "busy"
    worker.start()
    assert [robot.hear().part for robot in robots[:2]] == ["actions", "actions"]
    robots[2].ask()
    assert robots[2].hear().part == "actions"
    assert worker.num_bytes == 0


def test_requests_within_the_window_share_a_batch(policy, watched):
    worker = Worker(policy, Metrics(RULES), max_queue=9, batch_sizes=(1, 2, 3), batch_window_s=60.0, max_bytes=1 << 30)
    robots = [Robot(worker, f"{i}") for i in range(5)]
    worker.robots = 3
    worker.start()
    for seed in range(3):  # as many as are connected: nobody else to wait for
        robots[seed].ask(seed=seed)
    assert [robot.hear().batch_size for robot in robots[:3]] == [3, 3, 3]
    worker.robots = 9
    for seed in (3, 4, 5):  # a full batch does not wait either
        robots[seed - 3].ask(seed=seed)
    assert [robot.hear().batch_size for robot in robots[:3]] == [3, 3, 3]
    robots[3].ask(seed=6, is_alone=True)  # a named seed: a batch of its own, at once
    assert robots[3].hear().batch_size == 1
    robots[4].ask(seed=7)
    with pytest.raises(queue.Empty):  # others may still come
        robots[4].heard.get(timeout=0.3)
    worker.stop()
    assert robots[4].hear().error.rule == "closing"


def test_one_that_fails_does_not_harm_its_neighbours(worker, policy, monkeypatch):
    real = policy.predict_stepwise

    def fails(observations, seeds, *rest, **more):
        if 13 in seeds:
            raise RuntimeError("out of memory")
        return real(observations, seeds, *rest, **more)

    monkeypatch.setattr(policy, "predict_stepwise", fails)
    robots = [Robot(worker, f"{i}") for i in range(3)]
    worker.robots = 3
    for robot, seed in zip(robots, (1, 13, 2), strict=True):
        robot.ask(seed=seed)
    worker.start()
    heard = [robot.hear() for robot in robots]
    assert [type(h) for h in heard] == [Answer, Refused, Answer]
    assert heard[1].error.rule == "failed"
    robots[1].ask(seed=3)
    assert robots[1].hear().part == "actions"


def test_what_is_not_a_number_never_reaches_a_robot(worker, policy, monkeypatch):
    real = policy.predict_stepwise

    def broken(*asked, **more):
        for event in real(*asked, **more):
            if not isinstance(event, StepDone):
                event[0].action[3, 2] = np.nan
            yield event

    monkeypatch.setattr(policy, "predict_stepwise", broken)
    robot = Robot(worker)
    robot.ask()
    worker.start()
    assert robot.hear().error.rule == "failed"


def test_many_threads_at_once_all_get_their_own(worker):
    """Submitting is safe from any thread, and nobody gets a neighbour's answer."""
    worker.max_queue = 64
    worker.start()
    wrong = []

    def robot(number):
        mine = Robot(worker, f"{number}")
        for turn in range(4):
            mine.ask(seed=100 * number + turn)
            if mine.hear().prediction.seed != 100 * number + turn:
                wrong.append(number)

    threads = [threading.Thread(target=robot, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(worker) == 0


def test_a_batch_has_one_of_the_sizes_that_are_ready(policy):
    worker = Worker(policy, Metrics(RULES), max_queue=9, batch_sizes=(1, 2, 4), batch_window_s=0.0, max_bytes=1 << 30)
    for seed in range(7):
        Robot(worker, str(seed)).ask(seed=seed)
    with worker._changed:
        assert [len(worker._next_batch()) for _ in range(4)] == [4, 2, 1, 0]
