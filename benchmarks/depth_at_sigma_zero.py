"""Which depth is better: that of the last denoising call, or of one more call at noise level 0?

    python benchmarks/depth_at_sigma_zero.py checkpoints/tiny --data runs/tiny/data --clips 48

The last of 50 calls still reads latents with a little noise (level about 0.09 at shift 5), and the depth it answers is
the published one. One more call on the finished latents costs 1/50 more. Both depths are of the same clips (held-out
episodes), the same noise and the same imagined video to the bit, so the difference is paired. Every line: mean of the
published one, mean of the other, mean difference with its standard error over clips.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.evaluate.clips import observation_of, reality
from xwam.evaluate.compare import compare_worlds
from xwam.policy import load_policy

NAMES = ("abs_rel", "abs_rel_aligned", "rmse_m", "delta1", "chamfer_m", "f_10mm", "consistency_m")


def main() -> None:
    """Imagine every clip twice and compare the depths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    policy = load_policy(asked.checkpoint)
    clips = Clips(
        open_lerobot(asked.data), policy.config.clip, policy.config.view_names, split="validation", padded=False
    )
    chosen = np.random.default_rng(asked.seed).permutation(len(clips))[: asked.clips].tolist()
    steps = [replace(policy.config.denoise, depth_at_zero=again) for again in (False, True)]
    rows, seconds = ([], []), ([], [])
    for start in tqdm(range(0, len(chosen), asked.batch), unit="batch"):
        some = chosen[start : start + asked.batch]
        batch = [clips[i] for i in some]
        worlds = []
        for kind in (0, 1):
            began = time.process_time()
            *_, answers = policy.predict_batch([observation_of(c) for c in batch], seeds=some, steps=steps[kind])
            seconds[kind].append(time.process_time() - began)
            worlds.append(answers)
            for clip, answer in zip(batch, answers, strict=True):
                scores = compare_worlds(answer, reality(clip, answer, policy.config.clip.crop), policy.layout)
                rows[kind].append({name: float(np.nanmean(scores[name])) for name in NAMES if name in scores})
        for one, other in zip(*worlds, strict=True):
            np.testing.assert_array_equal(one.video, other.video)
            np.testing.assert_array_equal(one.action, other.action)
    print(f"{len(chosen)} clips of {asked.data}, checkpoint {asked.checkpoint}, seed {asked.seed}")
    print(f"{'':16} last call   level 0   difference")
    for name in rows[0][0]:
        published, again = (np.array([row[name] for row in kind]) for kind in rows)
        gap = again - published
        error = np.nanstd(gap, ddof=1) / np.sqrt(np.isfinite(gap).sum())
        print(f"{name:16} {np.nanmean(published):9.5f} {np.nanmean(again):9.5f} {np.nanmean(gap):+9.5f} +- {error:.5f}")
    one, other = (np.median(kind) for kind in seconds)
    print(f"median CPU seconds of a whole answer, batch {asked.batch}: {one:.2f} and {other:.2f}")


if __name__ == "__main__":
    main()
