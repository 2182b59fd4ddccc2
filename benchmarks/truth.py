"""Does imagination tell the truth? Three questions to one checkpoint, in the simulator, on unseen placements.

    python benchmarks/truth.py checkpoints/tiny --tasks reach-v3 drawer-close-v3 --out runs/truth

1. **Path.** A whole chunk is played after every decision. How far is the imagined path of the hand from the executed
   one? Baseline: a hand that stays where it is.
2. **Success.** Does the last imagined picture show the task solved exactly when it really was? A linear probe on small
   pictures judges; for each episode it learns from the **real** pictures of the other episodes of the task alone.
   Ceiling: the probe on the real last picture. Baseline: on the first picture, before anything was done.
3. **Actions.** The same placement is played twice: with the expert's actions, and with those of another episode. The
   model imagines both (forward dynamics: clean actions and states). Where the two real videos differ, is each imagined
   one nearer to its own real one? And how much do actions change the imagination, compared with another seed?

Every episode leaves a file, so interrupt and repeat at will. Writes ``truth.json``, ``table.md`` and ``truth.svg``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from xwam.config import ClipConfig
from xwam.dynamics import imagine_actions
from xwam.evaluate.closed_loop import UNSEEN
from xwam.evaluate.geometry_metrics import hand_path_scores
from xwam.evaluate.metrics import MOVING_LEVELS, static_views, wilson_interval
from xwam.evaluate.played import real_world
from xwam.evaluate.report_plots import figure, interval_chart
from xwam.evaluate.results_file import identity
from xwam.evaluate.study import markdown_table, same_settings, t_interval
from xwam.files import write_json
from xwam.images import resize_and_centre_crop
from xwam.policy import Policy, load_policy
from xwam.records import Observation
from xwam.sim.env import ExpertEnv
from xwam.sim.metaworld import make_metaworld
from xwam.sim.rollout import rollout

MakeEnv = Callable[..., ExpertEnv]
SEEDS = 500_000  # of this benchmark, beside those of `xwam evaluate`
SMALL_PX = 32  # about the side of the probe's pictures: means over square cells
RIDGE = 0.01  # of the probe, as a share of the pictures' variance


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is asked, and how often."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    tasks: tuple[str, ...]
    out: Path = Path("runs/truth")
    episodes: int = 10  # per task, for path and success
    chunks: int = 3  # decisions per episode, at most
    swaps: int = 5  # per task, for the actions
    device: str = "cpu"


def run(settings: Truth, make_env: MakeEnv = make_metaworld) -> dict:
    """Play what is not played yet, judge, write the results."""
    policy = load_policy(settings.checkpoint, device=settings.device)
    same_settings(settings.out / "settings.json", {"chunks": settings.chunks} | identity(policy))
    size = {"width_px": policy.config.clip.width_px, "height_px": policy.config.clip.height_px}
    for index, task in enumerate(tqdm(settings.tasks, desc="truth", unit="task")):
        env = make_env(task, **size)
        other = make_env(_other(settings, index), **size)
        for number in range(settings.episodes):
            path = settings.out / "episodes" / f"{task}-{number:03d}.npz"
            if not path.is_file():
                save_whole(path, play(env, policy, UNSEEN + SEEDS + number, settings.chunks))
        for number in range(settings.swaps):
            path = settings.out / "swaps" / _pair(settings, index) / f"{task}-{number:03d}.npz"
            if not path.is_file():
                save_whole(path, swap(env, other, policy, UNSEEN + SEEDS + number))
        env.close()
        other.close()
    result = {"path": judge_paths(settings), "success": judge_success(settings), "actions": judge_swaps(settings)}
    write_json(settings.out / "truth.json", result)
    write_results(settings.out, result)
    return result


# --- one episode ------------------------------------------------------------------------------------------------


def play(env: ExpertEnv, policy: Policy, seed: int, num_chunks: int) -> dict[str, np.ndarray]:
    """Act and imagine; per decision the path errors, and small pictures with whether the task was solved by then."""
    horizon, per_frame = policy.config.clip.action_horizon, policy.config.clip.actions_per_frame
    episode = rollout(
        env, lambda observation, request: policy.predict(observation, seed=request),
        seed=seed, replan_every=horizon, max_steps=min(num_chunks * horizon, env.max_steps), imagine=True,
    )  # fmt: skip
    solved_at = episode.num_steps if episode.success else np.inf
    rows: dict[str, list] = {name: [] for name in ("decision", "real", "imagined", "is_solved", "path", "still")}
    for decision, imagined in enumerate(episode.predictions):
        real = real_world(episode, decision, policy)
        count, static = len(real.state), static_views(real.cameras)
        assert imagined.video is not None
        assert real.video is not None
        still = np.repeat(real.state[:1], count, axis=0)
        paths = [hand_path_scores(s, real.state, policy.layout) for s in (imagined.state[:count], still)]
        for name, scores in zip(("path", "still"), paths, strict=True):
            rows[name].append(np.mean([hand.mean_m for hand in scores.values()]))
        rows["decision"] += [decision] * count
        rows["real"].append(small(real.video[static]))
        rows["imagined"].append(small(imagined.video[static][:, :count]))
        rows["is_solved"].append(episode.decision_steps[decision] + per_frame * np.arange(count) >= solved_at)
    joined = {name: np.concatenate(rows[name]) for name in ("real", "imagined", "is_solved")}
    return joined | {name: np.array(rows[name]) for name in ("decision", "path", "still")}


def small(video: np.ndarray) -> np.ndarray:
    """Views x frames of pictures as one row of numbers per frame."""
    side = max(1, video.shape[2] // SMALL_PX)
    rows, columns = video.shape[2] // side, video.shape[3] // side
    cells = video[:, :, : rows * side, : columns * side].reshape(*video.shape[:2], rows, side, columns, side, 3)
    pictures = cells.mean(axis=(3, 5), dtype=np.float64) / 255
    return np.moveaxis(pictures, 1, 0).reshape(video.shape[1], -1).astype(np.float32)


def swap(env: ExpertEnv, other: ExpertEnv, policy: Policy, seed: int) -> dict[str, np.ndarray]:
    """One placement, two chunks of actions: how far each imagined video is from each real one, and from another seed.

    The other actions are those of another task's expert (of another placement, where there is one task only).
    """
    clip, names = policy.config.clip, policy.config.view_names
    foreign = record(other, seed + 1, None, clip)[1]
    first, action, states, frames = record(env, seed, None, clip)
    again, _, other_states, other_frames = record(env, seed, foreign, clip)
    assert np.array_equal(first.images[names[0]], again.images[names[0]]), "the same seed must give the same placement"
    static = static_views([first.cameras[name] for name in names])

    def imagined(actions: np.ndarray, through: np.ndarray, noise: int) -> np.ndarray:
        video = imagine_actions(policy, first, actions, through, seed=noise).video
        assert video is not None
        return video[static][:, 1:].astype(np.float64)

    ours, theirs = imagined(action, states, seed), imagined(foreign, other_states, seed)
    reseeded = imagined(action, states, seed + 1)
    real, other_real = (_seen(f, names, clip)[static][:, 1:].astype(np.float64) for f in (frames, other_frames))
    differs = np.abs(real - other_real).max(axis=-1) > MOVING_LEVELS
    pairs = {
        "own": [(ours, real), (theirs, other_real)], "wrong": [(ours, other_real), (theirs, real)],
        "by_action": [(ours, theirs)], "by_seed": [(ours, reseeded)], "by_action_real": [(real, other_real)],
    }  # fmt: skip
    return {name: np.array([((a - b) ** 2)[differs].mean() for a, b in two]) for name, two in pairs.items()} | {
        "pixels": np.array([differs.sum()])
    }


def record(
    env: ExpertEnv, seed: int, action: np.ndarray | None, clip: ClipConfig
) -> tuple[Observation, np.ndarray, np.ndarray, list[Observation]]:
    """Play one chunk from the start (None: the expert's): what was seen first, the actions, states and frames."""
    env.reset(seed)
    first = env.observe()
    frames, played = [first], []
    for step in range(clip.action_horizon):
        played.append(env.expert_action() if action is None else action[step])
        env.step(played[-1])
        if (step + 1) % clip.actions_per_frame == 0:
            frames.append(env.observe())
    return first, np.stack(played), np.stack([frame.state for frame in frames]), frames


def _seen(frames: Sequence[Observation], names: Sequence[str], clip: ClipConfig) -> np.ndarray:
    views = [np.stack([frame.images[name] for frame in frames]) for name in names]
    return np.stack([resize_and_centre_crop(view, clip) for view in views])


def save_whole(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A file that is there is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    temporary.rename(path)


# --- judgement --------------------------------------------------------------------------------------------------


def judge_paths(settings: Truth) -> dict[str, float]:
    """Mean distance of the hand from where it really went: imagined, and if it had stayed; one number per episode."""
    episodes = [
        episode for task in settings.tasks for episode in _load(settings.out / "episodes", task, settings.episodes)
    ]
    result = {"episodes": float(len(episodes))}
    for name, key in (("imagined_m", "path"), ("still_m", "still")):
        values = [float(episode[key].mean()) for episode in episodes]
        low, high = t_interval(values)
        result |= {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}
    return result


def judge_success(settings: Truth) -> dict[str, list[int]]:
    """How often the probe says "solved" of three pictures, when it was so and when not: [times, cases]."""
    counts = {f"{picture}_{truth}": [0, 0] for picture in ("imagined", "last", "first") for truth in ("solved", "open")}
    for task in settings.tasks:
        episodes = _load(settings.out / "episodes", task, settings.episodes)
        for index, episode in enumerate(episodes):
            others = episodes[:index] + episodes[index + 1 :]
            judge = fit_probe(others)
            if judge is None:  # all solved or none: nothing can be learned from them
                continue
            for decision in np.unique(episode["decision"]):
                rows = np.flatnonzero(episode["decision"] == decision)
                truth = "solved" if episode["is_solved"][rows[-1]] else "open"
                pictures = {
                    "imagined": episode["imagined"][rows[-1]], "last": episode["real"][rows[-1]],
                    "first": episode["real"][rows[0]],
                }  # fmt: skip
                for picture, values in pictures.items():
                    counts[f"{picture}_{truth}"][0] += bool(judge(values) > 0)
                    counts[f"{picture}_{truth}"][1] += 1
    return counts


def fit_probe(episodes: Sequence[dict[str, np.ndarray]]) -> Callable[[np.ndarray], float] | None:
    """Ridge regression to +1 (solved) and -1, both classes of equal weight; None when there is one class only."""
    if not episodes:
        return None
    pictures = np.concatenate([episode["real"] for episode in episodes]).astype(np.float64)
    is_solved = np.concatenate([episode["is_solved"] for episode in episodes])
    share = is_solved.mean()
    if share in (0, 1):
        return None
    weight = np.where(is_solved, 0.5 / share, 0.5 / (1 - share)) / len(is_solved)
    centre = weight @ pictures
    x = pictures - centre
    gram = x @ x.T
    ridge = RIDGE * (weight * np.diag(gram)).sum()
    normal = x.T @ np.linalg.solve(gram + ridge * np.diag(1 / weight), np.where(is_solved, 1.0, -1.0))
    return lambda picture: float((picture - centre) @ normal)


def judge_swaps(settings: Truth) -> dict[str, float]:
    """How often the imagined video is nearer to its own real one, and what changes it more, actions or seed."""
    rows = [
        row
        for index, task in enumerate(settings.tasks)
        for row in _load(settings.out / "swaps" / _pair(settings, index), task, settings.swaps)
        if row["pixels"][0]
    ]
    if not rows:
        return {"nearer": 0, "videos": 0}
    own, wrong = (np.concatenate([row[name] for row in rows]) for name in ("own", "wrong"))
    rms = {f"rms_{name}": np.mean([np.sqrt(row[name][0]) for row in rows]) for name in ("by_action", "by_seed")}
    rms["rms_by_action_real"] = np.mean([np.sqrt(row["by_action_real"][0]) for row in rows])
    psnr = {f"psnr_{n}_db": (10 * np.log10(255**2 / v)).mean() for n, v in (("own", own), ("wrong", wrong))}
    return {"nearer": int((own < wrong).sum()), "videos": len(own)} | {k: float(v) for k, v in (rms | psnr).items()}


def write_results(out: Path, result: dict) -> None:
    """``table.md`` and ``truth.svg``."""
    path, actions = result["path"], result["actions"]
    rows = [
        [f"hand path error, {name}", f"{1000 * path[key]:.0f} mm ({1000 * path[f'{key}_low']:.0f} to "
         f"{1000 * path[f'{key}_high']:.0f})", f"{path['episodes']:.0f} episodes"]
        for name, key in (("imagined", "imagined_m"), ("hand stays", "still_m"))
    ]  # fmt: skip
    shares = {
        f"{picture}: solved, when it was {truth}": tuple(result["success"][f"{key}_{short}"])
        for picture, key in (
            ("imagined picture", "imagined"),
            ("real last picture", "last"),
            ("first picture", "first"),
        )
        for truth, short in (("solved", "solved"), ("not", "open"))
    } | {"imagined video is nearer to its own actions' real one": (actions["nearer"], actions["videos"])}
    bars = []
    for name, (hits, count) in shares.items():
        low, high = wilson_interval(hits, count)
        rows.append([name, f"{hits / count:.0%} ({low:.0%} to {high:.0%})" if count else "–", f"{count} cases"])
        bars += [(name, low, hits / count, high)] if count else []
    for name, key in (("actions", "by_action"), ("seed", "by_seed"), ("actions, really", "by_action_real")):
        if actions["videos"]:
            rows.append([f"change of pictures by other {name}", f"{actions[f'rms_{key}']:.1f} of 255 levels", ""])
    (out / "table.md").write_text(markdown_table(["question", "answer (95 %)", "of"], rows))
    (out / "truth.svg").write_text(figure([interval_chart(bars)]))


def _other(settings: Truth, index: int) -> str:
    """The task whose actions are swapped in."""
    return settings.tasks[(index + 1) % len(settings.tasks)]


def _pair(settings: Truth, index: int) -> str:
    """A folder for each pair: with other tasks beside it, a task gets other actions."""
    return f"{settings.tasks[index]}-{_other(settings, index)}"


def _load(folder: Path, task: str, count: int) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(folder / f"{task}-{number:03d}.npz")) for number in range(count)]


if __name__ == "__main__":
    settings = tyro.cli(Truth, description=__doc__)
    run(settings)
    print((settings.out / "table.md").read_text())
