"""Demonstrations in LeRobot's own Meta-World environment, in LeRobot's own format; the first step of a study.

Run it with the Python that has LeRobot and Meta-World (``make conformance-lerobot`` installs both)::

    .venv-lerobot/bin/python benchmarks/lerobot_metaworld.py runs/lerobot/data --episodes 40 \
        --tasks button-press-topdown-v3 window-open-v3

The environment's scripted experts play, with noise that is held for eight commands; what was played is recorded, twelve
commands beyond success, at 80 Hz: one picture (rendered at 320 px, stored at 160), four numbers of state and of action.
A folder that is finished stays as it is; what was interrupted begins anew. ``make reproduce-lerobot`` goes on from
there: train, and ``lerobot-eval`` in the same environment on other placements.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

STORED_PX, RENDERED_PX = 160, 320
NOISE, HELD, AFTER, LONGEST = 0.3, 8, 12, 300  # share of the largest command; commands
FEATURES = {
    "observation.image": {"dtype": "video", "shape": (STORED_PX,) * 2 + (3,), "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": (4,), "names": ["x", "y", "z", "gripper"]},
    "action": {"dtype": "float32", "shape": (4,), "names": ["dx", "dy", "dz", "gripper"]},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is recorded, and where."""

    out: Annotated[Path, Positional]
    tasks: tuple[str, ...] = ("button-press-topdown-v3", "window-open-v3")
    episodes: int = 40  # solved ones of each task; placements 0, 1, 2, …


def opened(task: str) -> Any:
    """LeRobot's environment as it opens itself, but that it renders fewer pixels."""
    import metaworld
    from lerobot.envs.metaworld import MetaworldEnv  # pyright: ignore[reportMissingImports]

    env = MetaworldEnv(task, obs_type="pixels_agent_pos")
    tasks = metaworld.MT1(task, seed=42)
    size: dict[str, Any] = {"width": RENDERED_PX, "height": RENDERED_PX}
    inner: Any = tasks.train_classes[task](render_mode="rgb_array", camera_name="corner2", **size)
    inner.set_task(tasks.train_tasks[0])
    inner.model.cam_pos[2] = [0.75, 0.075, 0.7]
    inner.reset()
    inner._freeze_rand_vec, inner.seeded_rand_vec = False, True
    env._env = inner
    return env


def play(env: Any, seed: int) -> list[dict[str, Any]] | None:
    """One episode as rows of the data set; None when the expert did not solve it."""
    seen, _ = env.reset(seed=seed)
    rng, rows, left = np.random.default_rng(seed), [], None
    noise = np.zeros(4)
    while len(rows) < LONGEST and left != 0:
        if len(rows) % HELD == 0:
            noise[:3] = rng.normal(0, NOISE, 3)
        command = np.clip(env.expert_policy.get_action(env._env._get_obs()) + noise, -1, 1).astype(np.float32)
        picture = Image.fromarray(np.ascontiguousarray(seen["pixels"]))
        picture = picture.resize((STORED_PX, STORED_PX), Image.Resampling.BOX)
        rows.append(
            {
                "observation.image": np.asarray(picture),
                "observation.state": seen["agent_pos"].astype(np.float32),
                "action": command,
                "task": env.task_description,
            }
        )
        raw, *_, info = env._env.step(command)
        seen = env._format_raw_obs(raw)
        left = left - 1 if left is not None else (AFTER if info["success"] else None)
    return None if left is None else rows


def main(recording: Recording) -> None:
    if (recording.out / "meta" / "info.json").is_file():
        return print(f"{recording.out}: there already; remove it to record anew")
    unfinished = recording.out.with_name(f"{recording.out.name}.tmp")  # LeRobot creates the folder, and only once
    shutil.rmtree(unfinished, ignore_errors=True)
    record(recording, unfinished)
    unfinished.rename(recording.out)
    return None


def record(recording: Recording, out: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

    data = LeRobotDataset.create("xwam/metaworld", fps=80, features=FEATURES, root=out, use_videos=True)
    for task in recording.tasks:
        env, seed, solved = opened(task), 0, 0
        while solved < recording.episodes:
            rows, seed = play(env, seed), seed + 1
            if rows is None:
                continue
            for row in rows:
                data.add_frame(row)
            data.save_episode()
            solved += 1
            print(f"{task}: {solved} of {recording.episodes}, {len(rows)} commands", flush=True)
        env.close()
    data.finalize()


if __name__ == "__main__":
    main(tyro.cli(Recording, description=__doc__))
