"""The report of a closed-loop evaluation: all successes and waiting times, and three episodes played again in 4D.

The best episode is the quickest success, the worst a failure if there is one. They are played again with the same
seeds, this time with the imagined world if the checkpoint has any; the first decision of each is shown in 4D. Scores
of pictures and depth are of these three alone, and the page says so.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xwam.evaluate.closed_loop import ClosedLoopConfig, EpisodeResult, blinded
from xwam.evaluate.compare import summarize
from xwam.evaluate.played import episode_report
from xwam.evaluate.report import write_report
from xwam.evaluate.report_charts import Totals
from xwam.evaluate.report_episode import EpisodeReport, best_median_worst, decision_scores
from xwam.policy import Policy
from xwam.records import Observation, Prediction
from xwam.sim.env import Env
from xwam.sim.rollout import rollout


def write_closed_report(
    out: Path,
    policy: Policy,
    config: ClosedLoopConfig,
    numbers: dict[str, Any],
    make_env: Callable[..., Env],
) -> None:
    """Play three episodes again and write the page. ``numbers``: what evaluate_closed_loop returned."""
    results = [EpisodeResult(**row) for row in numbers["episodes"]]
    episodes = []
    ranks = [float(row.success) - row.num_steps / (config.max_steps + 1) for row in results]
    with tempfile.TemporaryDirectory() as folder:
        for label, place in tqdm(best_median_worst(ranks), desc="play again, in 4D", unit="episode"):
            page = Path(folder) / f"world-{place}.html"
            episodes.append(_play_again(policy, config, results[place], page, label, make_env))
        trials, wins = Counter(row.task for row in results), Counter(row.task for row in results if row.success)
        totals = Totals(
            tasks={task: (wins[task], trials[task]) for task in trials},
            action_seconds=[seconds for row in results for seconds in row.waits],
            world_seconds=[
                sum(d.imagined.seconds.values()) for e in episodes for d in e.decisions if d.imagined.video is not None
            ],
            frame_hz=policy.config.clip.frame_hz,
            per_step=_decay(episodes, policy),
            batch=config.num_envs,
            num_shown=len(episodes),
        )
        facts = {"title": f"{len(results)} episodes: {', '.join(sorted(trials))}", "tasks": numbers["tasks"]}
        write_report(out, episodes, facts | numbers["settings"], totals=totals, is_alone=True)


def _play_again(
    policy: Policy,
    config: ClosedLoopConfig,
    result: EpisodeResult,
    page: Path,
    label: str,
    make_env: Callable[..., Env],
) -> EpisodeReport:
    clip = policy.config.clip
    env = make_env(result.task, width_px=clip.width_px, height_px=clip.height_px)

    def predict(observation: Observation, seed: int) -> Iterator[Prediction]:
        seen = blinded(observation) if config.is_blind else observation
        return policy.predict(seen, seed=seed, actions_only=not policy.has_world)

    episode = rollout(
        env,
        predict,
        seed=result.seed,
        replan_every=config.replan_every,
        max_steps=config.max_steps,
        imagine=policy.has_world,
    )
    env.close()
    pages: list[Path | None] = [page, *[None] * (len(episode.predictions) - 1)]
    shown = episode_report(episode, policy, pages, label=label)
    if episode.success != result.success:
        shown = replace(shown, label=f"{label} (played again: another end)")
    return shown


def _decay(episodes: Sequence[EpisodeReport], policy: Policy) -> dict[str, list[float]]:
    """Curves of the decisions that were imagined: over the steps that really happened."""
    rows = [decision_scores(d, policy.layout) for e in episodes for d in e.decisions]
    return summarize([{k: np.asarray(v) for k, v in row.items()} for row in rows])["per_step"]
