"""Episodes that were played, as the report shows them: what was imagined at each decision, and what really came."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xwam.data.augment import crop_depth
from xwam.evaluate.report_episode import Decision, EpisodeReport, page_of
from xwam.images import centre_window, resize_and_centre_crop, resize_nearest
from xwam.policy import Policy
from xwam.records import Prediction
from xwam.sim.rollout import Rollout


def imagined_world(episode: Rollout, decision: int) -> Prediction:
    """What was imagined at a decision, of the cameras that this robot has."""
    imagined = episode.predictions[decision]
    return imagined.only_views([v for v, camera in enumerate(imagined.cameras) if camera.name in episode.video])


def real_world(episode: Rollout, decision: int, policy: Policy) -> Prediction:
    """What really came after a decision, as the same kind of record: the frames that were seen, cropped alike."""
    imagined, clip = imagined_world(episode, decision), policy.config.clip
    _, kept = episode.matching_frames(decision)
    names = [camera.name for camera in imagined.cameras]
    video = [resize_and_centre_crop(episode.video[n][kept], clip) for n in names]
    window = centre_window(clip.height_px, clip.width_px, clip.crop)
    depth = np.stack([resize_nearest(episode.depth[n][kept], clip.height_px, clip.width_px) for n in names])
    return replace(
        imagined,
        state=episode.state[episode.frame_steps[kept]],
        video=np.stack(video),
        depth=crop_depth(depth, (window,) * len(names)),  # the pixels that a clip of a data set has
        seconds={},
    )


def episode_report(episode: Rollout, policy: Policy, pages: Sequence[Path | None], *, label: str = "") -> EpisodeReport:
    """The episode with a 4D page for each decision that has a path in ``pages`` and something to show in space."""
    title = f"{episode.task}: {episode.instruction}"
    decisions = []
    for index, page in enumerate(pages):
        imagined, real = imagined_world(episode, index), real_world(episode, index, policy)
        if page is not None:
            page = page_of(page, imagined, policy.layout, real=real, title=title)
        decisions.append(Decision(imagined=imagined, real=real, page=page))
    return EpisodeReport(
        task=episode.task,
        instruction=episode.instruction,
        seed=episode.seed,
        success=episode.success,
        num_steps=episode.num_steps,
        layout=policy.layout,
        decisions=decisions,
        label=label,
    )
