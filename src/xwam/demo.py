"""The demo: a trained policy acts in a simulator, imagines while the robot moves, and everything is shown and measured.

Writes ``report.html`` (real beside imagined, with links to the 4D pages), ``result.json`` and ``mosaic.mp4``.
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import xwam
from xwam.evaluate.closed_loop import placements
from xwam.evaluate.compare import Scores, compare_worlds, summarize
from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.played import episode_report
from xwam.evaluate.report import write_report
from xwam.evaluate.report_episode import Decision
from xwam.files import write_json
from xwam.policy import Policy, load_policy
from xwam.sim.env import Env
from xwam.sim.metaworld import make_metaworld
from xwam.sim.rollout import Rollout, gather, play_chunks
from xwam.sim.simulators import check_robot
from xwam.view.mosaic import write_mosaic

REPLAN_EVERY = 16  # actions played of each chunk
MAX_DECISIONS = 4  # per episode


def run_demo(*, task: str, num_episodes: int, seed: int, out: Path, checkpoint: Path) -> dict[str, Any]:
    """Play the episodes, write the pages, return what ``result.json`` holds."""
    if num_episodes < 1:
        raise ValueError(f"episodes={num_episodes}: play at least 1.")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more; below lie the placements that training saw.")
    env = make_metaworld(task)  # a wrong task fails here, before anything heavy is loaded
    policy = load_policy(checkpoint)
    clip = policy.config.clip
    if any((camera.width, camera.height) != (clip.width_px, clip.height_px) for camera in env.cameras.values()):
        env.close()
        env = make_metaworld(task, width_px=clip.width_px, height_px=clip.height_px)
    check_robot("metaworld", [task], policy.layout, action_hz=clip.action_hz, views=policy.needed_views)
    out.mkdir(parents=True, exist_ok=True)
    episodes, scores, played = [], [], []
    bar = tqdm(total=num_episodes * MAX_DECISIONS, desc="act and imagine", unit="decision")
    for number, placement in enumerate(placements(seed, num_episodes)):
        episode = _play(env, policy, placement, bar)
        played.append(episode)
        pages = [out / f"world-{number}-{i}.html" for i in range(len(episode.predictions))]
        episodes.append(episode_report(episode, policy, pages))
        decisions = episodes[-1].decisions
        scores += [_scores(d, policy) for d in decisions if d.real is not None and len(d.real.state) > 1]
    bar.close()
    env.close()
    write_mosaic(out / "mosaic.mp4", episodes[0].decisions[0].imagined, real=episodes[0].decisions[0].real)
    result = _result(played, scores, task=task, seed=seed, checkpoint=checkpoint)
    write_report(out / "report.html", episodes, {"title": f"X-WAM demo: {task}", **result})
    write_json(out / "result.json", result)
    return result


def _play(env: Env, policy: Policy, seed: int, bar: tqdm) -> Rollout:
    """One episode; the bar moves with every decision, and jumps when the task is solved early."""
    chunks = []
    for chunk in play_chunks(
        env,
        lambda observation, request: policy.predict(observation, seed=request),
        seed=seed,
        replan_every=REPLAN_EVERY,
        max_steps=MAX_DECISIONS * REPLAN_EVERY,
        imagine=True,
    ):
        chunks.append(chunk)
        bar.update()
    bar.update(MAX_DECISIONS - len(chunks))
    return gather(env, seed, chunks)


def _scores(decision: Decision, policy: Policy) -> Scores:
    assert decision.real is not None
    return compare_worlds(decision.imagined, decision.real, policy.layout)


def _result(
    played: Sequence[Rollout], scores: Sequence[Scores], *, task: str, seed: int, checkpoint: Path
) -> dict[str, Any]:
    """What result.json holds: success, latency, quality of the imagined world, and how it was made."""
    import torch

    wins = sum(episode.success for episode in played)
    return {
        "task": task,
        "success": [bool(episode.success) for episode in played],
        "success_rate": wins / len(played),
        "success_interval": wilson_interval(wins, len(played)),
        "action_latency_s": float(np.median(np.concatenate([e.action_seconds for e in played]))),
        "world_latency_s": float(np.median(np.concatenate([e.world_seconds for e in played]))),
        **{k: v for k, v in summarize(scores).items() if k != "per_step"},
        "seed": seed,
        "seeds": [episode.seed for episode in played],
        "checkpoint": str(checkpoint),
        "versions": {"xwam": xwam.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
