"""Does the autoencoder keep what the policy must see? Read a task's goal out of its latents with a straight line.

    python benchmarks/see_goal.py checkpoints/tiny --task reach-v3

Every placement is one observation: latents of its first frames, and the goal in metres. Ridge regression learns from
most of them and is asked for the rest. Baselines: guessing the mean, and the same regression on the pictures, halved in
size. A policy that misses what this finds has not learned to look; the autoencoder is not to blame.

The second table asks the policy for its first chunk on the last ``ask`` placements and adds up its commands, beside
those that the scripted expert gives step by step. Correlation 1: it follows the goal; 0: it does not look.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from tqdm import tqdm

from xwam.evaluate.closed_loop import UNSEEN
from xwam.evaluate.study import markdown_table
from xwam.images import resize_and_centre_crop
from xwam.policy import Policy, load_policy
from xwam.sim.metaworld import METAWORLD_LAYOUT, make_metaworld

SEEDS = 700_000  # of this benchmark, beside those of the others
NEAR_M = 0.05  # what Meta-World calls reached
RIDGES = (1e-3, 1e-2, 1e-1)  # shares of the features' variance


@dataclass(frozen=True, kw_only=True)
class SeeGoal:
    """Which checkpoint and task, and how many placements."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    task: str = "reach-v3"
    learn: int = 400  # placements; 0 leaves out the first table
    ask: int = 100


def observed(policy: Policy, task: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``N V H W 3`` as the policy sees them, and goals ``N 3`` in metres."""
    clip, names = policy.config.clip, policy.config.view_names
    env = make_metaworld(task, width_px=clip.width_px, height_px=clip.height_px)
    pictures, goals = [], []
    for number in tqdm(range(count), desc=task, unit="placement"):
        env.reset(UNSEEN + SEEDS + number)
        images = env.observe().images
        pictures.append(np.stack([images[name] for name in names]))
        goals.append(env._raw._target_pos[:3].copy())
    env.close()
    return resize_and_centre_crop(np.stack(pictures), clip), np.stack(goals)


@torch.no_grad()
def latents_of(policy: Policy, pictures: np.ndarray) -> np.ndarray:
    """One row of numbers per placement: the latents of every view."""
    images = torch.from_numpy(pictures).float().movedim(-1, 2) / 127.5 - 1
    rows = [policy.networks.vae.encode(views.unsqueeze(2)).flatten() for views in images]
    return torch.stack(rows).double().numpy()


def missed_by(features: np.ndarray, goals: np.ndarray, learn: int) -> tuple[float, float]:
    """Mean distance in metres on placements that were not learned, and the share within NEAR_M.

    The ridge is the best one on the last fifth of what may be learned.
    """
    tried = learn - learn // 5
    errors = [_misses(features[:learn], goals[:learn], tried, ridge).mean() for ridge in RIDGES]
    error = _misses(features, goals, learn, RIDGES[int(np.argmin(errors))])
    return float(error.mean()), float((error < NEAR_M).mean())


def _misses(features: np.ndarray, goals: np.ndarray, learn: int, ridge: float) -> np.ndarray:
    """Distances on all rows after the first ``learn``, which a ridge regression was fitted to."""
    centre, mean = features[:learn].mean(axis=0), goals[:learn].mean(axis=0)
    known, asked = features[:learn] - centre, features[learn:] - centre
    gram = known @ known.T
    weights = np.linalg.solve(gram + ridge * np.trace(gram) / learn * np.eye(learn), goals[:learn] - mean)
    return np.linalg.norm(asked @ known.T @ weights + mean - goals[learn:], axis=1)


def moved(policy: Policy, task: str, numbers: range) -> tuple[np.ndarray, np.ndarray]:
    """The sum of a chunk's commands, ``N 3`` in metres: the policy's, then the expert's, on the same placements."""
    clip = policy.config.clip
    env = make_metaworld(task, width_px=clip.width_px, height_px=clip.height_px)
    position = METAWORLD_LAYOUT.action_slice("left_position")
    asked, expert = [], []
    for number in tqdm(numbers, desc=f"{task}, policy", unit="placement"):
        env.reset(UNSEEN + SEEDS + number)
        answer = next(policy.predict(env.observe(), seed=number, actions_only=True))
        asked.append(answer.action[:, position].sum(axis=0))
        actions = []
        for _ in range(clip.action_horizon):
            actions.append(env.expert_action())
            env.step(actions[-1])
        expert.append(np.sum(actions, axis=0)[position])
    env.close()
    return np.stack(asked), np.stack(expert)


def read_table(policy: Policy, settings: SeeGoal) -> str:
    """What a straight line reads out of latents and of pictures."""
    pictures, goals = observed(policy, settings.task, settings.learn + settings.ask)
    halved = pictures[:, :, ::2, ::2].reshape(len(pictures), -1) / 255.0
    guess = np.linalg.norm(goals[settings.learn :] - goals[: settings.learn].mean(axis=0), axis=1)
    rows = {
        "latents": missed_by(latents_of(policy, pictures), goals, settings.learn),
        "pictures": missed_by(halved, goals, settings.learn),
        "guessing the mean": (float(guess.mean()), float((guess < NEAR_M).mean())),
    }
    table = [[name, f"{1000 * mean:.0f} mm", f"{share:.0%}"] for name, (mean, share) in rows.items()]
    return markdown_table(["goal read from", "missed by", f"within {100 * NEAR_M:.0f} cm"], table)


def moved_table(policy: Policy, settings: SeeGoal) -> str:
    """How well the first chunk agrees with the expert's, by axis."""
    asked, expert = moved(policy, settings.task, range(settings.learn, settings.learn + settings.ask))
    rows = [
        [axis, f"{1000 * theirs.std():.0f} mm", f"{1000 * np.sqrt(np.mean((ours - theirs) ** 2)):.0f} mm",
         f"{np.corrcoef(ours, theirs)[0, 1]:.2f}"]
        for axis, ours, theirs in zip("xyz", asked.T, expert.T, strict=True)
    ]  # fmt: skip
    return markdown_table(["first chunk along", "spread of the expert's", "off by (rms)", "correlation"], rows)


def run(settings: SeeGoal) -> str:
    """The tables."""
    policy = load_policy(settings.checkpoint)
    tables = [read_table(policy, settings)] if settings.learn else []
    return "\n".join([*tables, moved_table(policy, settings)])


if __name__ == "__main__":
    print(run(tyro.cli(SeeGoal, description=__doc__)))
