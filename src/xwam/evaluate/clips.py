"""One held-out clip: what the model imagines from its first frame, what really happened, and the scores of both."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xwam import encode
from xwam.config import Config, Imagining
from xwam.data.augment import centre_crop
from xwam.data.clips import Clips
from xwam.data.episodes import Episodes
from xwam.data.opening import open_data
from xwam.dynamics import imagine_actions
from xwam.evaluate import metrics
from xwam.evaluate.compare import Scores, compare_worlds, ended
from xwam.policy import Policy
from xwam.records import Clip, Observation, Prediction
from xwam.robot.layout import Layout, differences, layout_slices
from xwam.robot.robot_json import RobotConfig


def held_out(data: Path, config: Config, *, robot: RobotConfig | None = None, absent: Collection[str] = ()) -> Clips:
    """Clips of a data set's held-out demonstrations, up to their ends. Raises ValueError when there are none."""
    clips = Clips(
        open_data(data, robot=robot), config.clip, config.view_names,
        split="validation", demonstrations_only=True, absent=absent,
    )  # fmt: skip
    if not any(clips.of_episodes):
        raise ValueError(f"data={data}: no held-out demonstration has two frames; record longer or more ones.")
    return clips


def one_of_each(clips: Clips, most: int, *, seed: int) -> list[int]:
    """At most so many clips to look at: one of every episode, in a random order, before a second of any.

    Clips of one episode overlap, so they say less. Fewer are the beginning of more; none lacks a frame that follows.
    """
    rng = np.random.default_rng(seed)
    orders, chosen = [rng.permutation(numbers) for numbers in clips.of_episodes], list[int]()
    for turn in range(max(map(len, orders), default=0)):
        if len(chosen) >= most:
            break
        chosen += rng.permutation([order[turn] for order in orders if turn < len(order)]).tolist()
    return chosen[:most]


def check_same_robot(policy: Policy, episodes: Episodes) -> None:
    """Raises ValueError for the data of another robot: numbers in the same slots would mean something else."""
    wrong = differences(episodes.layout, policy.layout)
    if wrong or episodes.layout.name != policy.layout.name:
        what = f" ({wrong[0]})" if wrong else ""
        raise ValueError(
            f"data of robot {episodes.layout.name!r}: the policy acts as {policy.layout.name!r}{what}. Where it "
            "learned from both, name the other one (--robot, a folder of its robots/); otherwise take its own data."
        )


def score_clip(policy: Policy, clip: Clip, *, seed: int) -> Scores:
    """Imagine a clip from its first frame and compare."""
    imagined, real = imagine_clip(policy, clip, seed=seed)
    return action_scores(policy, clip, imagined) | compare_worlds(imagined, real, policy.layout)


def imagine_clip(policy: Policy, clip: Clip, *, seed: int, mode: Imagining = "joint") -> tuple[Prediction, Prediction]:
    """What the model imagines from a clip's first frame, and what really happened; only of views that were seen.

    Where the episode ends within the clip, what happened is shorter: there its last frame would stand still.
    ``mode="forward_dynamics"``: it is told the actions that were really played, and the states they led through.
    """
    if mode == "joint":
        *_, imagined = policy.predict(observation_of(clip), seed=seed)
    else:
        imagined = imagine_actions(policy, observation_of(clip), clip.executed, clip.state, seed=seed)
    real = reality(clip, imagined, policy.config.clip.crop)
    seen = np.flatnonzero(clip.video_mask[:, 0]).tolist()
    return imagined.only_views(seen), real.only_views(seen)


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
    """What really happened, as the same kind of record: cropped as the model sees it, up to the episode's end."""
    seen = centre_crop(clip, crop=crop)
    whole = replace(
        like,
        action=clip.executed,
        state=clip.state,
        video=seen.video,
        depth=seen.depth,
        cameras=seen.cameras,
        seconds={},
    )
    return whole.first_frames(int(clip.state_mask.sum()))


@torch.no_grad()
def through_autoencoder(policy: Policy, world: Prediction) -> Prediction:
    """A world encoded and decoded by the policy's autoencoder, and nothing else: what the autoencoder alone loses.

    It takes whole clips: a shorter world goes through with its last frame repeated.
    """
    vae = policy.networks.vae

    def recoded(pictures: Tensor) -> Tensor:
        count = pictures.shape[2]
        steps = torch.arange(policy.config.clip.num_frames).clamp(max=count - 1)
        views = pictures[:, :, steps].split(1)
        return torch.cat([vae.decode(vae.encode(view.to(policy.device)))[:, :, :count] for view in views])

    video, depth = world.video, world.depth
    if video is not None:
        video = encode.tensor_to_video(recoded(encode.video_to_tensor(video)))
    if depth is not None:
        images = recoded(encode.depth_to_tensor(depth, world.cameras))
        depth = encode.tensor_to_depth(images, world.cameras, policy.config.denoise.far_share)
    return replace(world, video=video, depth=depth)


def action_scores(policy: Policy, clip: Clip, imagined: Prediction) -> Scores:
    """Errors of the actions, and of standing still (``_copy``); only those that are demonstrated count."""
    taught, scores = clip.action_mask, {}
    if not taught.any():
        return {}
    for ending, action in (("", imagined.action), ("_copy", standing_still(clip, policy.layout))):
        error = metrics.action_scores(action[taught], clip.action[taught], policy.layout)._asdict()
        scores |= {ended(f"action_{name}", ending): np.array(x) for name, x in error.items() if x is not None}
    return scores


def standing_still(clip: Clip, layout: Layout) -> Float[np.ndarray, "Ta Da"]:
    """Actions of a robot that stays where it is: no changes, joints as they are, other commands as they first were."""
    still, states = clip.action[:1].copy(), {part.name: where for part, where in layout_slices(layout.state)}
    for part, where in layout_slices(layout.action):
        if part.kind.startswith("delta"):
            still[:, where] = 0
        elif part.kind == "joint_command" and part.name in states:
            still[:, where] = clip.state[0, states[part.name]]
    return still.repeat(len(clip.action), axis=0)
