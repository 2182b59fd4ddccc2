"""A robot whose server answers late: how it moves, and whether it still does its task.

    python benchmarks/late_answers.py --settings.delay 6 --settings.episodes 8 --out runs/late.json
    python benchmarks/late_answers.py --out runs/late.json --picture docs/pictures/late_answers.png      (draw only)

A simulator plays one action per control period while the answer is computed; the delay is a number of periods, not the
clock's, so every run gives the same numbers. Plays: ``wait`` stands still; ``naive`` begins a late answer at its first
action; ``overlap`` leaves out what is past; ``realtime`` also tells the policy what is being played, which it was
trained to go on from (real-time chunking); ``guided`` tells it the same, but steers the denoising as for a checkpoint
without that training. Finished episodes stay in ``--out``: an interrupted run goes on where it stopped, other settings
need another file.
"""

import json
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from xwam_client.chunks import Chunks

from xwam.evaluate.closed_loop import UNSEEN
from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.results_file import identity
from xwam.files import write_json
from xwam.policy import Policy, load_policy
from xwam.records import Observation
from xwam.sim.metaworld import MetaWorld, make_metaworld

PLAYS = ("wait", "naive", "overlap", "guided", "realtime")
TASKS = ("button-press-topdown-v3", "drawer-close-v3", "door-close-v3")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run."""

    checkpoint: Path = Path("checkpoints/tiny")
    tasks: tuple[str, ...] = TASKS
    episodes: int = 8
    delay: int = 6  # control periods (50 ms) from the observation to the answer
    replan_every: int = 10
    max_steps: int = 120
    plays: tuple[str, ...] = PLAYS


class Naive(Chunks):
    """Plays a late answer from its first action, as if no time had passed."""

    def _take_answer(self) -> None:
        before = self._chunk
        super()._take_answer()
        if self._chunk is not before:
            self._position = 0


class LateServer:
    """The policy, whose answers are held back for ``delay`` control periods."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.delay, self.now = policy, 0, 0
        self._due: list[tuple[int, Future, dict]] = []

    def ask(self, observation: Observation, **asked) -> Future:
        answer = next(self.policy.predict(observation, actions_only=True, **asked))
        future = Future()
        self._due.append((self.now + self.delay, future, {"actions": answer.action}))
        self.tick(0)
        return future

    def tick(self, periods: int = 1) -> None:
        self.now += periods
        for at, future, answer in self._due:
            if at <= self.now and not future.done():
                future.set_result(answer)
        self._due = [due for due in self._due if not due[1].done()]


def untrained(policy: Policy) -> Policy:
    """The same networks, as if no prefix had ever been seen in training: then a prefix steers the denoising."""
    config = replace(policy.config, noise=replace(policy.config.noise, max_prefix=0))
    return Policy(
        config, policy.normalizer, policy.cameras, policy.networks, device=str(policy.device), absent=policy.absent
    )


def play_episode(env: MetaWorld, policy: Policy, play: str, seed: int, settings: Settings) -> dict:
    """One episode: the commands and what came of them."""
    env.reset(seed)
    server, parts = LateServer(untrained(policy) if play == "guided" else policy), [vars(p) for p in env.layout.action]
    kind, name = (Naive, "overlap") if play == "naive" else (Chunks, "realtime" if play == "guided" else play)
    chunks = kind(server.ask, parts, play=name, replan_every=settings.replan_every, seed=1000 * seed)
    chunks.settle(env.observe)  # the first answer finds a robot that has not begun to move
    server.delay = settings.delay
    chunks.delays[:] = [settings.delay]  # so late the next answer is expected
    commands = []
    while len(commands) < settings.max_steps and not env.success:
        command = chunks.next_action(env.observe)
        env.step(command.action)
        server.tick()
        commands.append(command)
    position = env.layout.action_slice("left_position")
    velocity = np.stack([command.action[position] for command in commands]) * env.action_hz
    return {
        "success": bool(env.success),
        "velocity": np.round(velocity, 4).tolist(),
        "is_first": [c.is_first for c in commands],
        "is_held": [c.is_held for c in commands],
    }


def borders(episode: dict) -> np.ndarray:
    """Where the commands of one answer end: the first of the next, and stops and starts. The very first is none."""
    held = np.array(episode["is_held"], dtype=bool)
    found = np.array(episode["is_first"], dtype=bool)
    found[1:] |= held[1:] != held[:-1]
    found[0] = False
    return np.flatnonzero(found)


def comparable(done: dict[str, dict], settings: Settings) -> dict[str, dict]:
    """Placements that were played in every way: like is compared with like."""
    wanted = {f"{task}/{number}" for task in settings.tasks for number in range(settings.episodes)}
    whole = {name for name in wanted if all(f"{play}/{name}" in done for play in settings.plays)}
    return {f"{play}/{name}": done[f"{play}/{name}"] for play in settings.plays for name in sorted(whole)}


def played_in(done: Iterable[str]) -> dict[str, Any]:
    """The plays, tasks and placements of a file, by their names in Settings."""
    plays, tasks, numbers = zip(*(key.split("/") for key in done), strict=True)
    return {
        "plays": tuple(play for play in PLAYS if play in plays),
        "tasks": tuple(dict.fromkeys(tasks)),
        "episodes": 1 + max(map(int, numbers)),
    }


def summarize(rows: list[dict]) -> dict[str, float]:
    """Jumps in m/s between neighbouring commands, at borders and elsewhere; success; time standing still."""
    at_borders, elsewhere = [], []
    for row in rows:
        jumps = np.linalg.norm(np.diff(np.array(row["velocity"]), axis=0), axis=1)
        is_border = np.zeros(len(jumps), dtype=bool)
        is_border[borders(row) - 1] = True
        at_borders += jumps[is_border].tolist()
        elsewhere += jumps[~is_border].tolist()
    wins = sum(row["success"] for row in rows)
    low, high = wilson_interval(wins, len(rows))
    return {
        "episodes": len(rows), "success": wins / len(rows), "low": low, "high": high,
        "jump_mean": float(np.mean(at_borders)), "jump_max": float(np.max(at_borders)),
        "elsewhere_mean": float(np.mean(elsewhere)),
        "standing_still": float(np.mean([held for row in rows for held in row["is_held"]])),
        "seconds_to_success": float(np.mean([len(r["velocity"]) / 20 for r in rows if r["success"]] or [np.nan])),
    }  # fmt: skip


def table(done: dict[str, dict], settings: Settings) -> str:
    """The rows of docs/results.md."""
    lines = [
        "| play | success (95 % interval) | mean jump at borders | largest of all "
        "| jumps elsewhere | standing still | time to success |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for play in settings.plays:
        rows = [row for key, row in done.items() if key.startswith(f"{play}/")]
        if rows:
            s = summarize(rows)
            lines.append(
                f"| {play} | {s['success']:.0%} ({s['low']:.0%} to {s['high']:.0%}), {s['episodes']} episodes "
                f"| {s['jump_mean']:.2f} m/s | {s['jump_max']:.2f} m/s "
                f"| {s['elsewhere_mean']:.2f} m/s | {s['standing_still']:.0%} | {s['seconds_to_success']:.1f} s |"
            )
    return "\n".join(lines)


def draw(done: dict[str, dict], settings: Settings, path: Path) -> None:
    """One episode's commanded velocity under every play, borders marked, and all jumps at borders."""
    import matplotlib.pyplot as plt

    last = [key.split("/", 1)[1] for key in done if key.startswith("realtime/")]
    shown = next(name for name in last if all(f"{play}/{name}" in done for play in settings.plays))
    figure, axes = plt.subplots(len(settings.plays), 2, figsize=(8, 6), width_ratios=(3, 1), sharex="col", sharey="col")
    jumps = {}
    for play in settings.plays:
        rows = [row for key, row in done.items() if key.startswith(f"{play}/")]
        pairs = [(np.array(row["velocity"]), borders(row)) for row in rows]
        jumps[play] = np.concatenate([np.linalg.norm(v[b] - v[b - 1], axis=1) for v, b in pairs])
    for (left, right), play in zip(axes, settings.plays, strict=True):
        episode = done[f"{play}/{shown}"]
        velocity = np.array(episode["velocity"])
        for step in borders(episode):
            left.axvline(step / 20, color="0.85", linewidth=3)
        left.step(np.arange(len(velocity)) / 20, velocity, where="post", linewidth=1)
        left.set_ylabel(f"{play}\nm/s")
        right.hist(jumps[play], bins=np.linspace(0, max(x.max() for x in jumps.values()), 21), color="0.4")
        right.axvline(jumps[play].mean(), color="tab:red")
    axes[0, 0].set_title(f"commanded velocity x, y, z: {shown.replace('/', ', placement ')}", fontsize=9)
    axes[0, 1].set_title("jumps at borders", fontsize=9)
    axes[-1, 0].set_xlabel(f"seconds; answers {settings.delay * 50} ms late; grey: borders of chunks")
    axes[-1, 1].set_xlabel("m/s; red: mean")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main(settings: Settings, out: Path, picture: Path | None = None) -> None:
    """Play what is not played yet and print the table; with ``picture`` play nothing and draw what ``out`` holds."""
    if picture is None:
        done = comparable(play_missing(settings, out), settings)
    else:
        stored = json.loads(out.read_text())
        settings = replace(settings, **{key: stored["settings"][key] for key in ("delay", "replan_every", "max_steps")})
        settings = replace(settings, **played_in(stored["episodes"]))
        done = comparable(stored["episodes"], settings)
        draw(done, settings, picture)
    print(table(done, settings))


def play_missing(settings: Settings, out: Path) -> dict[str, dict]:
    """All episodes, by ``play/task/number``. Raises ValueError when ``out`` was made in another way."""
    policy = load_policy(settings.checkpoint, with_world=False)
    facts = json.loads(json.dumps(asdict(settings) | {"checkpoint": str(settings.checkpoint)} | identity(policy)))
    stored = json.loads(out.read_text()) if out.is_file() else {"settings": facts, "episodes": {}}
    if any(stored["settings"].get(key) != facts[key] for key in facts if key not in ("episodes", "tasks", "plays")):
        raise ValueError(f"out={out} holds episodes of other settings {stored['settings']}: choose another file.")
    done: dict[str, dict] = stored["episodes"]
    wanted = [(s, t, p) for s in range(settings.episodes) for t in settings.tasks for p in settings.plays]
    missing = [(s, t, p) for s, t, p in wanted if f"{p}/{t}/{s}" not in done]
    for seed, task in dict.fromkeys((s, t) for s, t, _ in missing):
        env = make_metaworld(task, width_px=policy.config.clip.width_px, height_px=policy.config.clip.height_px)
        for play in (p for s, t, p in missing if (s, t) == (seed, task)):
            done[f"{play}/{task}/{seed}"] = play_episode(env, policy, play, UNSEEN + seed, settings)
            write_json(out, {"settings": facts, "episodes": done})
        env.close()
    return done


if __name__ == "__main__":
    tyro.cli(main)
