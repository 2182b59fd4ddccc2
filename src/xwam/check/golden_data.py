"""Do our clips and statistics equal what the published data set code returned?

``data_NAME.json`` (settings, clips, statistics) and ``data_NAME.safetensors`` (states, actions, masks; means and
spreads of the images) belong to the episodes in ``dataset/NAME``. Whether these hold one arm or two, and commands or
poses, is read from the episodes themselves.

Images are held against ours before they are rounded to bytes; that rounding is checked by itself.
"""

import functools
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xwam.check.golden_recipe import read_json, read_tensors, relative_error
from xwam.config import ClipConfig
from xwam.data.clips import Clips
from xwam.data.stats import normalizer_from
from xwam.data.xwam_json import METADATA_FILE, XwamJsonEpisodes, open_xwam_json, what_it_holds
from xwam.encode import depth_to_image
from xwam.robot.layout import Layout, two_arm_layout
from xwam.robot.normalizer import Normalizer
from xwam.robot.published import flipped_gripper

IMAGE_RANGE = 2.0  # images and depth images lie in [-1, 1]
HALF_LEVEL = 0.5 / 127.5  # what rounding to bytes may change


class Source(NamedTuple):
    """The episodes of a golden file."""

    root: Path
    is_raw: bool  # actions are the controller's own commands
    arms: tuple[str, ...]


def source_of(folder: Path, name: str) -> Source:
    """The episodes of ``data_NAME``: ``dataset/NAME``, or the only data set with its episodes and lengths."""
    root = folder / "dataset" / name.removeprefix("data_")
    if not root.is_dir():
        lengths = read_json(folder, name).get("metadata")
        found = [path.parent for path in sorted(folder.glob(f"dataset/*/{METADATA_FILE}")) if _json(path) == lengths]
        if len(found) != 1:
            raise FileNotFoundError(f"root={root}: no such folder; the episodes of {name} are expected there.")
        root = found[0]
    arms, is_raw = what_it_holds(root)
    return Source(root, is_raw, arms)


def published_layout(source: Source, *, inverse_gripper: bool = False) -> Layout:
    """The published layout for these episodes; ``inverse_gripper`` flips the model's side of every opening."""
    arms, is_raw = source.arms == ("left",), source.is_raw
    layout = two_arm_layout(source.root.name, single_arm=arms, raw_gripper=is_raw, delta_gripper=not is_raw)
    return flipped_gripper(layout) if inverse_gripper else layout


def open_all(source: Source, layout: Layout, skip: int) -> list[XwamJsonEpisodes]:
    """Every way to begin with this skip: together they hold every step."""
    return [
        open_xwam_json(source.root, layout=layout, raw_actions=source.is_raw, action_skip=skip, first_step=first)
        for first in range(skip)
    ]


def check_clips(folder: Path, name: str) -> Iterator[tuple[str, float]]:
    """Statistics and clips of one golden data set. Ask for 1e-5, and 1e-3 of ``…/images/…``.

    ``…/refused`` and ``…/not scaled`` are 0 where ours differs on purpose, in the way it should.
    """
    source, recorded, golden = source_of(folder, name), read_json(folder, name), read_tensors(folder, name)
    for key, values in recorded["statistics"].items():
        skip = int(key.removeprefix("action_skip"))
        if source.is_raw and skip > 1:
            yield f"statistics/{key}/refused", _is_accepted(source, skip)
        else:
            yield from _check_statistics(f"statistics/{key}", source, skip, values)
    for variant, numbers in recorded["variants"].items():
        settings = numbers["kwargs"]
        if settings.get("augment") or settings.get("shuffle_view_order"):
            yield f"{variant}/not compared", 0.0  # random, and what was drawn is not recorded
        elif source.is_raw and settings.get("action_skip", 1) > 1:
            yield f"{variant}/refused", _is_accepted(source, settings["action_skip"])
        else:
            yield from _check_variant(variant, source, numbers, golden)


# --- statistics -------------------------------------------------------------------------------------------------


@functools.cache
def _normalizer(source: Source, layout: Layout, skip: int) -> Normalizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about the data, which is not ours
        return normalizer_from(*open_all(source, layout, skip))


def _is_accepted(source: Source, skip: int) -> float:
    """0 when we refuse to skip steps of raw commands, as we should."""
    try:
        open_all(source, published_layout(source), skip)
    except ValueError:
        return 0.0
    return 1.0


def _check_statistics(
    prefix: str, source: Source, skip: int, values: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, float]]:
    layout = published_layout(source)
    ours = _normalizer(source, layout, skip)
    largest = np.maximum(-ours.action_q01, ours.action_q99)
    for which, state, action in (("q01", ours.state_q01, -largest), ("q99", ours.state_q99, largest)):
        for arm in source.arms:
            pairs = {
                f"proprio_{arm}_ee_xyz": state[layout.state_slice(f"{arm}_position")],
                "gripper_pos": state[layout.state_slice(f"{arm}_gripper")],
                f"action_{arm}_ee_xyz": action[layout.action_slice(f"{arm}_position")],
                f"action_{arm}_ee_axisangle": action[layout.action_slice(f"{arm}_rotation")],
            }
            if not source.is_raw:
                pairs["gripper_action"] = action[layout.action_slice(f"{arm}_gripper")]
            for theirs, found in pairs.items():
                yield f"{prefix}/{theirs} {which} ({arm})", relative_error(found, np.array(values[which][theirs]))
    if source.is_raw:  # the published script writes a bound that its training does not use
        slots = np.concatenate([np.r_[layout.action_slice(f"{arm}_gripper")] for arm in source.arms])
        command = np.where(np.isin(np.arange(layout.action_width), slots), 0.5, 0.0)
        passed_on = ours.normalize_action(command)[slots]
        yield f"{prefix}/gripper_action/not scaled", float(np.abs(passed_on + command[slots]).max())


# --- clips ------------------------------------------------------------------------------------------------------


def _check_variant(
    variant: str, source: Source, numbers: Mapping[str, Any], golden: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    settings = numbers["kwargs"]
    skip = settings.get("action_skip", 1)
    layout = published_layout(source, inverse_gripper=settings.get("inverse_gripper", False))
    normalizer = _normalizer(source, layout, skip)
    sets = [_clips(episodes, settings, numbers["items"][0]) for episodes in open_all(source, layout, skip)]
    yield f"{variant}/number of clips", float(abs(sum(map(len, sets)) - numbers["length"]))
    for item, (key, first) in zip(numbers["items"], numbers["clips"], strict=True):
        start = int(first)
        clips = sets[start % skip]
        episodes = clips.episodes
        assert isinstance(episodes, XwamJsonEpisodes)
        episode = [episodes.key(i) for i in range(episodes.num_episodes)].index(key)
        prefix = f"{variant}/{item['index']}"
        if skip == 1:
            yield f"{prefix}/place", float(clips.locate(item["index"]) != (episode, start))
        fps = episodes.action_hz / clips.config.actions_per_frame
        yield f"{prefix}/fps", abs(fps - item["fps"]) / item["fps"]
        yield f"{prefix}/prompt", float(episodes.info(episode).instruction != item["prompt"])
        yield from _check_vectors(prefix, clips, episode, start // skip, normalizer, golden)
        per_view = settings.get("normalize_depths_per_view", False)
        yield from _check_images(prefix, clips, episode, start // skip, golden, per_view=per_view)


def _clips(episodes: XwamJsonEpisodes, settings: Mapping[str, Any], item: Mapping[str, Any]) -> Clips:
    per_frame = settings["frame_skip"] // settings.get("action_skip", 1)
    height, width = item["video_shape"][-2:]
    config = ClipConfig(
        num_frames=settings["sequence_length"],
        height_px=height,
        width_px=width,
        action_horizon=(settings["sequence_length"] - 1) * per_frame,
        actions_per_frame=per_frame,
        action_hz=episodes.action_hz,
        crop=0.95,  # not used here
    )
    return Clips(episodes, config, [camera.name for camera in episodes.cameras], split="all", padded=False)


def _check_vectors(
    prefix: str, clips: Clips, episode: int, start: int, normalizer: Normalizer, golden: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    clip, layout = clips.at(episode, start), normalizer.layout
    found = {
        "proprios": normalizer.normalize_state(clip.state),
        "actions": normalizer.normalize_action(clip.action),
        "proprio_mask": (clip.state_mask[:, None] & layout.state_mask).astype(np.float32),
        "action_mask": (clip.action_mask[:, None] & layout.action_mask).astype(np.float32),
    }
    for theirs, values in found.items():
        yield f"{prefix}/{theirs}", relative_error(values, golden[f"{prefix}/{theirs}"])


def _check_images(
    prefix: str, clips: Clips, episode: int, start: int, golden: Mapping[str, np.ndarray], *, per_view: bool
) -> Iterator[tuple[str, float]]:
    clip = clips.at(episode, start)
    images = clips.images(episode, start) / 127.5 - 1
    rounding = np.abs(images - (clip.video / 127.5 - 1)).max() - HALF_LEVEL
    yield f"{prefix}/images/rounded", float(max(0, rounding)) / IMAGE_RANGE
    if clip.depth is None:
        raise ValueError(f"{prefix}: the episodes have no depth videos; golden clips have depth.")
    depth = np.stack([depth_to_image(d, c.near_m, c.far_m) for d, c in zip(clip.depth, clip.cameras, strict=True)])
    if per_view:
        low, high = (end(depth, axis=(1, 2, 3), keepdims=True) for end in (np.min, np.max))
        depth = 2 * (depth - low) / (high - low) - 1
    shown = {"video": images, "depth": depth[..., None].repeat(3, axis=-1)}
    for what, values in shown.items():
        several = {"video": "video", "depth": "depths"}[what]
        means, spreads = values.mean(axis=(2, 3)), values.std(axis=(2, 3), ddof=1)
        yield f"{prefix}/images/{what} mean", _image_error(means, golden[f"{prefix}/{several}_mean_vtc"])
        yield f"{prefix}/images/{what} spread", _image_error(spreads, golden[f"{prefix}/{several}_std_vtc"])
        if f"{prefix}/{what}_first_view" in golden:  # small sets keep fewer frames and channels of it
            frames = golden[f"{prefix}/{what}_first_view"]
            ours = np.moveaxis(values[0], -1, 1)[: len(frames), : frames.shape[1]]
            yield f"{prefix}/images/{what} first view", _image_error(ours, frames)


def _image_error(found: np.ndarray, golden: np.ndarray) -> float:
    if found.shape != golden.shape:
        raise ValueError(f"shape={found.shape}: the golden images have {golden.shape}.")
    return float(np.abs(found - golden).max()) / IMAGE_RANGE


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
