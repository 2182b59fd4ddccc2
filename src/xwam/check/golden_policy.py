"""Does our way into and out of the network equal that of the published server and its augmentation?

``policy.json`` and ``policy.safetensors`` hold: ``crop_HxW_SHARE`` (the server's centre crop of ``rgb``), ``ROBOT/*``
(states and actions through a robot's statistics), ``future/*`` (poses from deltas), ``seeds`` of requests, ``aug/*``
(clips after recorded draws).
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from xwam.check.golden_recipe import read_json, read_tensors, relative_error
from xwam.data.augment import Colours, change_colours, crop_depth, crop_images
from xwam.images import Window, centre_window, crop_size, cut, resize
from xwam.robot.actions import integrate
from xwam.robot.layout import Layout, two_arm_layout
from xwam.robot.normalizer import Normalizer
from xwam.robot.rotations import positive_w


def check_policy(folder: Path, name: str) -> Iterator[tuple[str, float]]:
    """Every golden result's name and our largest error, relative to its peak. 1e-5 is the bound to ask for."""
    settings, golden = read_json(folder, name), read_tensors(folder, name)
    yield from _check_crops(golden)
    for robot, numbers in settings.items():
        if f"{robot}/state_q01" in golden:
            yield from _check_robot(robot, numbers, golden)
    if "future/initial" in golden:
        yield from _check_poses(golden)
    for key, seed in settings.get("seeds", {}).items():
        yield f"seeds/{key}", float(request_seed(key) != seed)
    for key, drawn in settings.items():
        if key.startswith("aug/"):
            yield from _check_augmentation(key, drawn, golden)


def request_seed(key: str) -> int:
    """The published client's seed of a request ``TASK_EPISODE_STEP``: our clients may send any other."""
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest(), "big") % 2**32


def _check_crops(golden: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    for key, expected in golden.items():
        size = re.fullmatch(r"crop_(\d+)x(\d+)_([\d.]+)", key)
        if not size:
            continue
        height, width, crop = int(size[1]), int(size[2]), float(size[3])
        images = np.moveaxis(golden["rgb"], -3, -1)[:, : expected.shape[1]]  # small sets keep fewer of the results
        window = centre_window(height, width, crop)
        found = resize(cut(resize(images, height, width), window, axis=-3), height, width)
        yield f"crop/{key}", relative_error(np.moveaxis(found, -1, -3), expected)


def _check_robot(
    robot: str, numbers: Mapping[str, Any], golden: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """Of the published robots, the one with one arm is the one whose gripper takes raw commands."""
    is_single = not numbers["has_right_arm"]
    layout = two_arm_layout(robot, single_arm=is_single, raw_gripper=is_single)
    normalizer = _normalizer(robot, layout, golden)
    state, actions = golden[f"{robot}/proprio_raw"], golden[f"{robot}/actions_model"]
    normal = normalizer.normalize_state(state)
    yield f"{robot}/proprio_norm", relative_error(normal, golden[f"{robot}/proprio_norm"])
    commands = normalizer.denormalize_action(actions)
    returned = commands[:, : numbers["action_dim_returned"]]
    yield f"{robot}/actions_env", relative_error(returned, golden[f"{robot}/actions_env"])
    there_and_back = normalizer.denormalize_state(normal)
    yield f"{robot}/state there and back", relative_error(there_and_back, np.where(layout.state_mask, state, 0))
    there_and_back = normalizer.normalize_action(commands)
    yield f"{robot}/action there and back", relative_error(there_and_back, np.where(layout.action_mask, actions, 0))


def _normalizer(robot: str, layout: Layout, golden: Mapping[str, np.ndarray]) -> Normalizer:
    """The robot's statistics; slots of an arm that they lack are unused."""

    def padded(name: str, width: int) -> Float[np.ndarray, " width"]:
        values = golden[f"{robot}/{name}"]
        return np.concatenate([values, np.zeros(width - len(values))])

    return Normalizer(
        layout=layout,
        state_q01=padded("state_q01", layout.state_width),
        state_q99=padded("state_q99", layout.state_width),
        action_q01=padded("action_q01", layout.action_width),
        action_q99=padded("action_q99", layout.action_width),
    )


def _check_poses(golden: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    start, deltas, poses = (golden[f"future/{name}"] for name in ("initial", "deltas", "poses"))
    position, quat = integrate(start[:3], start[3:7], deltas[:, :6])
    yield "future/position", relative_error(position, poses[:, :3])
    yield "future/rotation", relative_error(quat, positive_w(poses[:, 3:7]))
    yield "future/gripper", relative_error(start[7:] + np.cumsum(deltas[:, 6:], axis=0), poses[:, 7:])


def _check_augmentation(
    key: str, drawn: Mapping[str, Any], golden: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    video, depth = np.moveaxis(golden["aug/video"], 2, -1), golden["aug/depth"]
    rows, columns = crop_size(video.shape[2], video.shape[3], drawn["crop_ratio"])
    windows = tuple(Window(top, left, rows, columns) for top, left in drawn["top_left_per_view"])
    order = next(value for name, value in drawn.items() if name.startswith("order"))[0]
    brightness, contrast, saturation = (
        1.0 if factor is None else factor for factor in drawn["factors_brightness_contrast_saturation"]
    )
    hue = drawn["hue"][0] if drawn["hue"] else 0.0
    colours = Colours(brightness, contrast, saturation, hue, tuple(order))
    images = change_colours(crop_images((video + 1) / 2, windows), colours)
    yield f"{key}/video", relative_error(np.moveaxis(2 * images - 1, -1, 2), golden[f"{key}/video"])
    found = np.stack([crop_depth(channel, windows) for channel in np.moveaxis(depth, 2, 0)], axis=2)
    yield f"{key}/depths", relative_error(found, golden[f"{key}/depths"])
