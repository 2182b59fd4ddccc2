"""Open loop: on clips of held-out episodes, is what the model imagines what really happened?

Images and depth are compared over the static cameras and the future frames only, as the paper does; every number also
per horizon step, and beside the baseline that copies the last frame seen.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xwam.data.augment import centre_crop
from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.evaluate import metrics
from xwam.evaluate.compare import Scores, compare_worlds, summarize
from xwam.policy import Policy
from xwam.records import Clip, Observation, Prediction


def evaluate_open_loop(policy: Policy, data: Path, *, num_clips: int, seed: int, out: Path) -> dict[str, Any]:
    """Compare ``num_clips`` clips of the held-out episodes and write means (and per-step means) to ``out`` (JSON)."""
    clips = Clips(open_lerobot(data), policy.config.clip, policy.config.view_names, split="validation", padded=False)
    if len(clips) == 0:
        raise ValueError(f"data={data}: no held-out episode is long enough for one clip; record longer or more ones.")
    chosen = np.random.default_rng(seed).permutation(len(clips))[:num_clips]
    rows = [score_clip(policy, clips[i], seed=int(i)) for i in tqdm(chosen.tolist(), desc="open loop", unit="clip")]
    report = summarize(rows) | {"settings": {"num_clips": len(rows), "seed": seed, "data": clips.episodes.fingerprint}}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".tmp-{out.name}")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.rename(out)
    return report


def score_clip(policy: Policy, clip: Clip, *, seed: int) -> Scores:
    """Imagine a clip from its first frame and compare."""
    imagined = list(policy.predict(observation_of(clip), seed=seed))[-1]
    real = reality(clip, imagined, policy.config.clip.crop)
    error = metrics.action_scores(imagined.action, real.action, policy.layout)
    scores = {f"action_{name}": np.array(value) for name, value in error._asdict().items() if value is not None}
    return scores | compare_worlds(imagined, real, policy.layout)


def observation_of(clip: Clip) -> Observation:
    """What the robot saw when the clip began."""
    names = [camera.name for camera in clip.cameras]
    images = {name: clip.video[view, 0] for view, name in enumerate(names)}
    return Observation(
        images=images,
        state=clip.state[0],
        instruction=clip.instruction,
        cameras={camera.name: camera for camera in clip.cameras},
    )


def reality(clip: Clip, like: Prediction, crop: float) -> Prediction:
    """What really happened, as the same kind of record: cropped as the model sees it."""
    seen = centre_crop(clip, crop=crop)
    return replace(
        like, action=clip.action, state=clip.state, video=seen.video, depth=seen.depth, cameras=seen.cameras, seconds={}
    )
