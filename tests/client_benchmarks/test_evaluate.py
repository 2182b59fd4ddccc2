"""A whole evaluation against a real server, in processes of its own, as ``xwam-benchmark`` runs it."""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from xwam_benchmarks import command
from xwam_benchmarks.evaluate import Server, Trial, evaluate, wilson_interval
from xwam_client.agreement import MismatchError
from xwam_client.protocol import RefusedError

from tests.client.conftest import RunningAt
from tests.serve.conftest import Running
from xwam.evaluate import metrics
from xwam.evaluate.closed_loop import EpisodeResult, summarize
from xwam.serve.service import ServeConfig, Service

ROOT = Path(__file__).parents[2]
LINE = "tests.client_benchmarks.line"


def trial(tmp_path, **changes):
    how = {"tasks": ("one", "two"), "num_episodes": 3, "replan_every": 4, **changes}
    return Trial(opener=f"{LINE}:Line", options={"note": str(tmp_path / "note.txt")}, **how)


@pytest.fixture
def at(server, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Server(port=server.port)


def test_every_episode_is_played_once_and_counted(at, tmp_path):
    out, told = tmp_path / "results.json", []
    report = evaluate(at, trial(tmp_path), out, num_processes=2, tell=told.append)
    assert report == json.loads(out.read_text())
    assert [(row["task"], row["seed"]) for row in report["episodes"]] == [
        (t, s) for t in ("one", "two") for s in range(3)
    ]
    assert [row["success"] for row in report["episodes"]] == [True, False, True] * 2
    assert [row["num_steps"] for row in report["episodes"]] == [5, 10, 5] * 2
    assert [len(row["waits"]) for row in report["episodes"]] == [2, 3, 2] * 2
    server_ = report["settings"]["server"]
    assert server_["checkpoint"] == {"name": "debug", "hash": "0" * 16}
    assert server_["precision"] == "float32"
    assert server_["denoise"]["num_action_steps"] > 0
    assert len(told) == 6
    numbers = summarize([EpisodeResult(**row) for row in report["episodes"]])
    for key in ("mean_success", "overall", "tasks"):
        assert _flat(report[key]) == pytest.approx(_flat(numbers[key])), "xwam evaluate counts otherwise"
    lines = command.table_of(report).split("\n")
    assert [line.split()[0] for line in lines] == ["one", "two", "all"]
    assert "67%" in lines[2]
    assert "6 episodes" in lines[2]


def _flat(found):
    """A number, or a map of maps of them, in one list."""
    return [value for part in found.values() for value in _flat(part)] if isinstance(found, dict) else [found]


def test_it_goes_on_where_it_stopped(at, tmp_path):
    out, note = tmp_path / "results.json", tmp_path / "note.txt"
    evaluate(at, trial(tmp_path, num_episodes=2), out)
    first = json.loads(out.read_text())["episodes"]
    note.unlink()
    report = evaluate(at, trial(tmp_path, tasks=("two", "three")), out)
    assert sorted(set(note.read_text().split("\n")) - {"", "closed"}) == ["three 0", "three 1", "three 2", "two 2"]
    assert report["others"] == [row for row in first if row["task"] == "one"]
    assert report["overall"]["episodes"] == 6
    with pytest.raises(ValueError, match="holds results of another replan_every: choose another file"):
        evaluate(at, trial(tmp_path, replan_every=2), out)


def test_two_commands_do_not_write_one_file(at, tmp_path):
    """Each writes all that it knows, and would lose the other's episodes."""
    out, refused = tmp_path / "results.json", []

    def another(_):
        with pytest.raises(ValueError, match="another command is writing it") as told:
            evaluate(at, trial(tmp_path, tasks=("two",)), out)
        refused.append(told.value)

    evaluate(at, trial(tmp_path, tasks=("one",), num_episodes=1), out, tell=another)
    assert len(refused) == 1
    evaluate(at, trial(tmp_path, tasks=("two",), num_episodes=1), out)
    assert len(json.loads(out.read_text())["others"]) == 1


def test_mistakes_are_said_before_anything_is_played(at, tmp_path):
    out = tmp_path / "results.json"
    with pytest.raises(ValueError, match=r"replan_every=1000: must be in 1\.\."):
        evaluate(at, trial(tmp_path, replan_every=1000), out)
    for name in ("num_episodes", "max_steps"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            evaluate(at, trial(tmp_path, **{name: 0}), out)
    with pytest.raises(ConnectionError, match="no xwam server"):
        evaluate(Server(port=1, connect_seconds=0.2), trial(tmp_path), out)
    assert not (tmp_path / "note.txt").exists()


@pytest.mark.parametrize(
    ("opener", "error", "said"),
    [("refuse", MismatchError, "another robot"), ("refused", RefusedError, "the server could not")],
)
def test_what_ends_an_episode_is_told_as_it_is(at, tmp_path, opener, error, said):
    with pytest.raises(error, match=said) as told:
        evaluate(at, trial(tmp_path)._replace(opener=f"{LINE}:{opener}"), tmp_path / "results.json")
    assert error is not RefusedError or told.value.rule == "failed"


def test_an_error_lets_what_was_begun_finish(at, tmp_path):
    """With two processes the other one's episode is kept, and no new one begins."""
    out, note = tmp_path / "results.json", tmp_path / "note.txt"
    with pytest.raises(RuntimeError, match="the simulator broke"):
        evaluate(at, trial(tmp_path, tasks=("breaks", "slow", "two")), out, num_processes=2)
    begun = [line for line in note.read_text().split("\n") if line not in ("", "closed")]
    kept = [(row["task"], row["seed"]) for row in json.loads(out.read_text())["episodes"]]
    assert ("breaks", 1) in kept, "begun together with the one that broke"
    assert ("breaks", 0) not in kept
    assert sorted(f"{task} {seed}" for task, seed in kept) == sorted(set(begun) - {"breaks 0"})
    assert "two 2" not in begun


def test_a_server_that_comes_back_with_another_checkpoint_is_not_mixed_in(make_service, policy, monkeypatch, tmp_path):
    """As may happen in an evaluation of hours."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out, servers = tmp_path / "results.json", contextlib.ExitStack()
    port = servers.enter_context(Running(make_service())).port

    def replace(_):
        servers.close()
        servers.enter_context(RunningAt(Service(policy, ServeConfig(), name="debug", hash_="1" * 16), port))

    with servers, pytest.raises(ValueError, match=r"now has another checkpoint: .* Serve what it was"):
        evaluate(Server(port=port), trial(tmp_path), out, tell=replace)
    kept = json.loads(out.read_text())
    assert [(row["task"], row["seed"]) for row in kept["episodes"]] == [("one", 0)]
    assert kept["settings"]["server"]["checkpoint"]["hash"] == "0" * 16


def test_tasks_are_played_once_however_often_they_are_named(at, tmp_path):
    report = evaluate(at, trial(tmp_path, tasks=("one", "one"), num_episodes=1), tmp_path / "results.json")
    assert report["overall"]["episodes"] == 1


@pytest.mark.parametrize(("wins", "trials"), [(0, 10), (10, 10), (3, 7), (49, 50)])
def test_intervals_are_those_of_xwam(wins, trials):
    np.testing.assert_allclose(wilson_interval(wins, trials), metrics.wilson_interval(wins, trials), atol=1e-12)


def test_the_command_says_what_is_wrong_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "libero.libero.benchmark", None)  # not installed
    for arguments, words in (
        (["robocasa", "--out", "r.json", "--tasks", "Fly"], "tasks=Fly: must be among PnPCounterToCab"),
        (["libero", "--suite", "libero_goal", "--out", "r.json"], "No module named 'libero'|halted"),
        (["robocasa", "--out", "r.json", "--api-key-file", str(tmp_path / "none")], "No such file"),
    ):
        with pytest.raises(SystemExit, match=words):
            command.main(arguments)
    with pytest.raises(SystemExit):
        command.main(["robocasa", "--out", "r.json", "--camera", "wrist"])
    assert "say MODEL=SIMULATOR" in capsys.readouterr().err
