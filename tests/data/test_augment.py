"""Augmentation keeps pixels, depth and intrinsics together."""

import colorsys
from dataclasses import replace

import numpy as np

from xwam.data.augment import Colours, augment, centre_crop, change_colours, draw_augmentation
from xwam.images import resize_and_centre_crop
from xwam.presets import preset
from xwam.records import Camera, Clip


def make_clip(num_views: int = 2, size: int = 40) -> Clip:
    random = np.random.default_rng(0)
    intrinsics = np.array([[30.0, 0, size / 2], [0, 30.0, size / 2], [0, 0, 1]])
    return Clip(
        video=random.integers(0, 256, (num_views, 5, size, size, 3), dtype=np.uint8),
        depth=random.uniform(0.5, 2, (num_views, 5, size, size)).astype(np.float32),
        state=np.zeros((5, 16)),
        action=np.zeros((16, 14)),
        video_mask=np.ones((num_views, 5), bool),
        depth_mask=np.ones((num_views, 5), bool),
        state_mask=np.ones(5, bool),
        action_mask=np.ones(16, bool),
        instruction="push",
        cameras=tuple(
            Camera(name=f"view{i}", width=size, height=size, intrinsics=intrinsics) for i in range(num_views)
        ),
    )


def test_intrinsics_follow_the_crop() -> None:
    size = 40
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    ramp = np.broadcast_to(np.stack([columns, rows, columns], axis=-1) * 5, (1, 5, size, size, 3)).astype(np.uint8)
    clip = make_clip(1)
    clip = Clip(**(vars(clip) | {"video": ramp}))
    cropped = centre_crop(clip, crop=0.8)
    camera, old = cropped.cameras[0], clip.cameras[0]
    # a ray through the middle of a new pixel must hit the old pixel whose colour it shows
    u, v = 13, 22
    ray = np.linalg.inv(camera.intrinsics) @ [u + 0.5, v + 0.5, 1]
    seen = old.intrinsics @ ray
    np.testing.assert_allclose(cropped.video[0, 0, v, u, :2] / 5, seen[:2] - 0.5, atol=0.15)
    assert (camera.width, camera.height) == (size, size)


def test_one_crop_per_view_and_over_time() -> None:
    clip = make_clip()
    still = Clip(**(vars(clip) | {"video": np.repeat(clip.video[:, :1], 5, axis=1)}))
    changed = augment(still, np.random.default_rng(1), crop=0.9)
    assert (changed.video == changed.video[:, :1]).all()
    assert changed.video.shape == clip.video.shape
    assert set(np.unique(changed.depth)) <= set(np.unique(clip.depth))  # depth is never mixed
    same = augment(still, np.random.default_rng(1), crop=0.9)
    np.testing.assert_array_equal(changed.video, same.video)
    other = augment(still, np.random.default_rng(2), crop=0.9)
    assert (changed.video != other.video).any()


def test_without_a_crop_and_colours_nothing_changes() -> None:
    clip = make_clip()
    np.testing.assert_array_equal(centre_crop(clip, crop=1.0).video, clip.video)
    images = clip.video / np.float32(255)
    same = change_colours(images, Colours(1.0, 1.0, 1.0, 0.0))
    np.testing.assert_allclose(same, images, atol=1e-6)


def test_training_and_policy_crop_alike() -> None:
    clip = make_clip()
    config = replace(preset("tiny").clip, width_px=40, height_px=40)
    np.testing.assert_array_equal(
        centre_crop(clip, crop=0.95).video[1, 2], resize_and_centre_crop(clip.video[1, 2], config)
    )


def test_hue_is_a_turn_on_the_colour_circle() -> None:
    images = np.random.default_rng(0).random((1, 6, 6, 3)).astype(np.float32)
    turned = change_colours(images, Colours(1.0, 1.0, 1.0, 0.04))
    for old, new in zip(images.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*old.tolist())
        np.testing.assert_allclose(new, colorsys.hsv_to_rgb((hue + 0.04) % 1, saturation, value), atol=1e-5)


def test_draws_cover_every_window() -> None:
    random = np.random.default_rng(0)
    draws = [draw_augmentation(1, 20, 40, 0.9, random) for _ in range(300)]
    assert {draw.windows[0].top for draw in draws} == {0, 1, 2}
    assert {draw.windows[0].left for draw in draws} == {0, 1, 2, 3, 4}
    assert all(0.8 <= draw.colours.contrast <= 1.2 and abs(draw.colours.hue) <= 0.05 for draw in draws)
    assert len({draw.colours.order for draw in draws}) == 24
