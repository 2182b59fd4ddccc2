"""What a robot saw and was told can be read back, and imagined from."""

import json
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from xwam_client.protocol import RefusedError

from tests.examples import make_observation
from xwam.data.observations import load_observation
from xwam.presets import preset
from xwam.robot.layout import two_arm_layout
from xwam.serve.player import Answers
from xwam.serve.recorder import recorded

SEEN = make_observation(preset("debug"))


def answers_of(ask):
    return Answers(ask, two_arm_layout("toy"), 20.0, 16, tuple(SEEN.images), None, lambda: None)


def test_questions_and_answers_are_kept(tmp_path):
    def ask(observation, **asked):
        future = Future()
        if asked["seed"] == 1:
            future.set_exception(RefusedError("busy", "ask again"))
        else:
            future.set_result({"actions": np.full((16, 14), asked["seed"], np.float32)})
        return future

    for first in (0, 2):  # a second time into the same folder: nothing is lost
        kept = recorded(answers_of(ask), tmp_path / "seen")
        for seed in (first, first + 1):
            image = SEEN.images["left"].copy()
            answer = kept.ask(
                replace(SEEN, images={**SEEN.images, "left": image}), seed=seed, prefix=np.ones((seed, 14))
            )
            image[:] = 0  # a driver that uses its memory again
            assert (answer.exception() is None) == (seed != 1)
        kept.close()
    names = {path.name for path in (tmp_path / "seen").iterdir()}
    assert names == {f"{n:06d}-{which}.npz" for n in range(4) for which in ("seen", "told")}
    for number in range(4):
        seen = load_observation(tmp_path / f"seen/{number:06d}-seen.npz")
        np.testing.assert_array_equal(seen.images["left"], SEEN.images["left"])
        assert seen.instruction == SEEN.instruction
        with np.load(tmp_path / f"seen/{number:06d}-told.npz", allow_pickle=False) as told:
            facts = json.loads(str(told["facts"]))
            assert facts["seed"] == number
            assert facts["seconds"] >= 0
            assert told["prefix"].shape == (number, 14)
            if number == 1:
                assert facts["error"] == "RefusedError: ask again"
                assert "actions" not in told
            else:
                np.testing.assert_array_equal(told["actions"], np.full((16, 14), number))


def test_a_question_that_is_refused_at_once_leaves_nothing(tmp_path):
    def refuse(observation, **asked):
        raise ValueError("absurd")

    kept = recorded(answers_of(refuse), tmp_path)
    with pytest.raises(ValueError, match="absurd"):
        kept.ask(SEEN)
    kept.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_does_not_stop_the_robot(tmp_path, caplog):
    def ask(observation, **asked):
        future = Future()
        future.set_result({"actions": np.zeros((16, 14), np.float32)})
        return future

    kept = recorded(answers_of(ask), tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("")  # nothing can be written there
    assert kept.ask(SEEN).result()["actions"].shape == (16, 14)
    kept.close()
    assert "could not be written" in caplog.text
