"""Play every episode of a benchmark against a server, several at once, and keep the results.

Each process has a simulator and a connection of its own. Every finished episode is written at once, so an interrupted
evaluation goes on where it stopped. The file has the shape of those of ``xwam evaluate``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, NamedTuple

from xwam_client.client import Client, Request
from xwam_client.rollout import rollout

MAY_DIFFER = ("tasks", "num_episodes")  # between two parts of one evaluation
# Of the server: they stand beside the result, and stay what they were from the first episode to the last.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # of a file system: nobody is kept out then
FACTS = ("checkpoint", "layout", "action_hz", "versions", "denoise", "precision")


class Server(NamedTuple):
    """Where the server is."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    connect_seconds: float = 60.0

    def client(self, kind: Callable[..., Client] = Client) -> Client:
        """A connection of this kind. Raises ConnectionError."""
        return kind(self.host, self.port, api_key=self.api_key, connect_seconds=self.connect_seconds)


class Trial(NamedTuple):
    """What is played, and how."""

    opener: str  # "module:function", called with the server's metadata, a task's name and ``options``
    tasks: tuple[str, ...]
    num_episodes: int  # per task; seeds count from 0
    replan_every: int = 16
    max_steps: int | None = None  # None: the benchmark's own
    options: Mapping[str, Any] = {}


class TimedClient(Client):
    """A client that remembers how long each answer took, in seconds."""

    def __init__(self, *where: Any, **how: Any) -> None:
        self.waits: list[float] = []
        super().__init__(*where, **how)

    def ask(self, observation: Any, **asked: Any) -> Request:
        """As a Client does; an answer is handed on once its time is noted."""
        request, asked_at, handed_on = super().ask(observation, **asked), time.monotonic(), Future()

        def hand_on(answer: Future) -> None:
            self.waits.append(time.monotonic() - asked_at)
            error = answer.exception()
            handed_on.set_result(answer.result()) if error is None else handed_on.set_exception(error)

        request.actions.add_done_callback(hand_on)
        return request._replace(actions=handed_on)


def evaluate(
    server: Server, trial: Trial, out: Path, *, num_processes: int = 1, tell: Callable[[str], Any] = lambda _: None
) -> dict[str, Any]:
    """Play what ``out`` does not hold yet; returns what was written: success per task and overall, 95 % intervals.

    ``tell`` is called with a line for every finished episode. Raises MismatchError for a server made for another robot,
    ValueError for results of other settings in ``out`` or another command that writes it, and for a server that becomes
    another one meanwhile (what was finished before stays in ``out``), and whatever a simulator raises.
    """
    counts = {"num_episodes": trial.num_episodes, "max_steps": trial.max_steps, "num_processes": num_processes}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}={count}: must be 1 or more.")
    with server.client() as client:
        known, horizon = facts_of(client), client.metadata["action_horizon"]
    if not 1 <= trial.replan_every <= horizon:
        raise ValueError(f"replan_every={trial.replan_every}: must be in 1..{horizon}, the actions of one answer.")
    settings = json.loads(json.dumps({**trial._asdict(), "server": known}))
    with _alone(out):
        return _evaluate(server, trial, out, known, settings, num_processes, tell)


def _evaluate(
    server: Server, trial: Trial, out: Path, known: Mapping[str, Any], settings: Mapping[str, Any],
    num_processes: int, tell: Callable[[str], Any],
) -> dict[str, Any]:  # fmt: skip
    done = _load(out, settings)
    asked = [(task, seed) for task in dict.fromkeys(trial.tasks) for seed in range(trial.num_episodes)]
    left = [key for key in asked if key not in done]
    for row in _played(left, num_processes, (server, trial, known)):
        done[row["task"], row["seed"]] = row
        report = _write(out, settings, done, asked)
        said = "solved" if row["success"] else "not solved"
        rate = f"{report['overall']['success']:.0%} of {report['overall']['episodes']}"
        tell(f"{row['task']} {row['seed']}: {said} after {row['num_steps']} actions ({rate} so far)")
    return _write(out, settings, done, asked)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else writes ``out`` meanwhile: each writes the whole file, and would lose the other's episodes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{out.name}.claim").open("w") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"out={out}: another command is writing it; choose another file.") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def facts_of(client: Client) -> dict[str, Any]:
    """What must stay as it is while a server is asked."""
    return {name: client.metadata.get(name) for name in FACTS}


def _played(left: Sequence[tuple[str, int]], num_processes: int, begun_with: tuple) -> Iterator[dict[str, Any]]:
    """Episodes as they finish. After an error no other one begins; those that were begun are finished first."""
    coming, error = iter(left), None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, _begin, begun_with) as pool:
        running = {pool.submit(_play, *key) for key in itertools.islice(coming, num_processes)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                error = error or future.exception()
                if future.exception() is None:
                    yield future.result()
                if error is None:
                    running |= {pool.submit(_play, *key) for key in itertools.islice(coming, 1)}
    if error is not None:
        raise error


_here: dict[str, Any] = {}  # of this process: server (and its facts) and trial, the connection, the task that is open


def _begin(server: Server, trial: Trial, known: Mapping[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends simulators at once, not after their episodes
    _here.update(server=server, trial=trial, known=known, client=None, task=None, env=None)


def _play(task: str, seed: int) -> dict[str, Any]:
    """One episode, in a process of the pool. It connects at its first one: what is wrong then is raised as it is."""
    if _here["client"] is None:
        _here["client"] = _here["server"].client(TimedClient)
    client, trial = _here["client"], _here["trial"]
    _check_unchanged(client)
    if _here["task"] != task:
        if _here["env"] is not None:
            _here["env"].close()
        module, function = trial.opener.split(":")
        _here.update(env=getattr(import_module(module), function)(client.metadata, task, **trial.options), task=task)
    client.waits.clear()
    played = rollout(
        _here["env"], client, seed=seed, play="wait", replan_every=trial.replan_every, max_steps=trial.max_steps,
        keeps_time=False,
    )  # fmt: skip
    _check_unchanged(client)
    waits = list(client.waits)
    median = sorted(waits)[len(waits) // 2] if waits else 0.0
    return {
        "task": task, "seed": seed, "success": bool(played.success), "num_steps": len(played.action),
        "action_seconds": median, "waits": waits,
    }  # fmt: skip


def _check_unchanged(client: Client) -> None:
    """Refuse answers of two servers in one result: it may have begun anew with something else."""
    facts = facts_of(client)
    if changed := [name for name, known in _here["known"].items() if facts[name] != known]:
        raise ValueError(
            f"server {client.uri} now has another {', '.join(changed)}: its episodes are not mixed with those before. "
            "Serve what it was and repeat the command, or choose another file."
        )


def wilson_interval(wins: int, trials: int) -> tuple[float, float]:
    """Where the true rate lies with 95 % confidence (Wilson's score interval); 0 and 1 without trials."""
    if not trials:
        return 0.0, 1.0
    z, rate = 1.959963984540054, wins / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def _rate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    wins = sum(row["success"] for row in rows)
    low, high = wilson_interval(wins, len(rows))
    return {"success": wins / len(rows) if rows else 0.0, "low": low, "high": high, "episodes": len(rows)}


def _load(out: Path, settings: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    if not out.is_file():
        return {}
    stored = json.loads(out.read_text())
    before, now = ({k: v for k, v in s.items() if k not in MAY_DIFFER} for s in (stored["settings"], settings))
    if before != now:
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        raise ValueError(f"out={out} holds results of another {', '.join(changed)}: choose another file.")
    return {(row["task"], row["seed"]): row for row in (*stored["episodes"], *stored["others"])}


def _write(
    out: Path, settings: Mapping[str, Any], done: Mapping[tuple[str, int], Any], asked: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Whole or not at all. Only episodes that were asked for count; ``others`` that the file held stay in it."""
    rows = [done[key] for key in asked if key in done]
    tasks = {task: [row for row in rows if row["task"] == task] for task in dict.fromkeys(task for task, _ in asked)}
    per_task = {task: _rate(found) for task, found in tasks.items() if found}
    medians, counted = sorted(row["action_seconds"] for row in rows), set(asked)
    report = {
        "settings": settings,
        "mean_success": sum(row["success"] for row in per_task.values()) / max(1, len(per_task)),
        "overall": _rate(rows),
        "tasks": per_task,
        "action_seconds_median": medians[len(medians) // 2] if medians else 0.0,
        "episodes": rows,
        "others": [row for key, row in done.items() if key not in counted],
    }
    beside = out.with_name(out.name + ".part")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(beside, out)
    return report
