"""Physical units <-> tensors: round trips, masks, cameras, and what is refused at the door."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.examples import make_cameras, make_clip, make_normalizer, make_observation
from xwam import encode
from xwam.presets import preset
from xwam.records import Camera

CONFIG = preset("debug")


def test_depth_round_trip_is_fine_where_the_hand_works():
    depth = np.linspace(0.25, 2.0, 500, dtype=np.float32)
    back = encode.image_to_depth(encode.depth_to_image(depth, 0.2, 2.5), 0.2, 2.5)
    np.testing.assert_allclose(back, depth, rtol=1e-5)


def test_depth_ends_and_unknown():
    image = encode.depth_to_image(np.array([0.0, 0.1, 0.2, 2.5, 9.0], np.float32), 0.2, 2.5)
    np.testing.assert_allclose(image, [-1, 1, 1, -1, -1], atol=1e-6)
    assert encode.image_to_depth(np.array([-1.0, -0.99]), 0.2, 2.5).tolist() == [0, 0]
    at_five_percent = np.array([-0.91, -0.9, -0.89])
    assert (encode.image_to_depth(at_five_percent, 0.2, 2.5) > 0).all()
    assert (encode.image_to_depth(at_five_percent, 0.2, 2.5, 0.05) > 0).tolist() == [False, False, True]


def test_depth_image_is_linear_in_inverse_depth():
    middle = 1 / ((1 / 0.2 + 1 / 2.5) / 2)
    assert encode.depth_to_image(np.array([middle]), 0.2, 2.5)[0] == pytest.approx(0, abs=1e-6)


def test_bytes_survive():
    video = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 6, 3), dtype=np.uint8)
    tensor = encode.video_to_tensor(video)
    assert tensor.shape == (2, 3, 5, 8, 6)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    np.testing.assert_array_equal(encode.tensor_to_video(tensor), video)


def test_a_latent_frame_counts_only_when_all_its_frames_are_real():
    mask = np.ones((1, 9), bool)
    mask[0, 6:] = False
    assert encode.latent_mask(mask)[:, 0].tolist() == [True, True, False]


def test_clips_become_a_batch_with_masks():
    clip = make_clip(CONFIG, num_real_actions=10)
    pixels = encode.encode_clips([clip, clip], make_normalizer())
    assert pixels.video.shape == (2, 3, 3, 5, 32, 32)
    assert pixels.action_mask[0, :10, :7].all()
    assert not pixels.action_mask[0, 10:].any()
    assert not pixels.action_mask[0, :, 7:].any(), "a single arm has no right side"
    no_depth = encode.encode_clips([replace(clip, depth=None)], make_normalizer())
    assert not no_depth.depth_mask.any()


def test_views_through_the_vae_keep_their_place():
    def shrink(video):  # a stand-in with the VAE's shapes: frame 0 alone, then groups of four
        groups = [video[:, :, :1], *video[:, :, 1:].split(4, dim=2)]
        return torch.cat([g.mean(dim=2, keepdim=True)[..., ::16, ::16] for g in groups], dim=2)

    video = torch.arange(3.0).view(1, 3, 1, 1, 1, 1).expand(1, 3, 3, 5, 32, 32)
    latents = encode.encode_views(shrink, video)
    assert latents.shape == (1, 3, 2, 3, 2, 2)
    for view in range(3):
        assert (latents[:, :, :, view] == view).all()


def test_a_square_camera_follows_the_crop():
    intrinsics = np.array([[50.0, 0, 16], [0, 50, 16], [0, 0, 1]])
    camera = Camera(name="left", width=32, height=32, intrinsics=intrinsics, base_from_camera=np.eye(4))
    seen = encode.centre_cropped(camera, CONFIG.clip)
    assert seen.width == 32
    kept = int(32 * CONFIG.clip.crop)
    np.testing.assert_allclose(seen.intrinsics[0, 0], 50 * 32 / kept)
    np.testing.assert_allclose(seen.intrinsics[0, 2], 16, atol=0.6, err_msg="the centre stays the centre")


def test_the_range_of_depth_is_that_which_the_checkpoint_learned():
    """A new calibration says where a camera is, not what the brightness of imagined depth means."""
    learned = Camera(name="left", width=32, height=32, near_m=0.5, far_m=2.0)
    moved = Camera(name="left", width=32, height=32, intrinsics=np.diag([40.0, 40, 1]), base_from_camera=np.eye(4))
    observation = replace(make_observation(CONFIG), cameras={"left": moved})
    seen, other = encode.cameras_seen(observation, ("left", "right"), CONFIG.clip, {"left": learned})
    assert (seen.near_m, seen.far_m) == (0.5, 2.0)
    assert seen.intrinsics is not None
    assert (other.near_m, other.far_m) == (0.1, 10.0), "nobody knows better"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "camera='left' is missing"),
        ({"state": np.zeros(15, np.float32)}, "needs 16 slots"),
        ({"state": np.full(16, np.nan, np.float32)}, "not finite"),
        ({"instruction": "  "}, "say in words"),
    ],
)
def test_the_door_refuses(change, message):
    observation = replace(make_observation(CONFIG), **change)
    with pytest.raises(ValueError, match=message):
        encode.encode_observation(observation, CONFIG.view_names, CONFIG.clip, make_normalizer())


def test_the_door_refuses_float_images():
    observation = make_observation(CONFIG)
    images = {name: image.astype(np.float32) for name, image in observation.images.items()}
    object.__setattr__(observation, "images", images)
    with pytest.raises(ValueError, match="must be uint8"):
        encode.check_observation(observation, CONFIG.view_names, CONFIG.clip, make_normalizer().layout)


def test_robot_units_round_trip_with_unit_quaternions():
    normalizer = make_normalizer()
    clip = make_clip(CONFIG)
    state = torch.from_numpy(normalizer.normalize_state(clip.state))
    action = torch.from_numpy(normalizer.normalize_action(clip.action))
    states, actions = encode.to_robot_units(state * torch.tensor(1.0), action, normalizer)
    np.testing.assert_allclose(states, clip.state, atol=1e-6)
    np.testing.assert_allclose(actions, clip.action, atol=1e-6)
    flipped = state.clone()
    flipped[:, 3:7] *= -2
    states, _ = encode.to_robot_units(flipped, action, normalizer)
    np.testing.assert_allclose(states[:, 3:7], clip.state[:, 3:7], atol=1e-6)


def test_training_and_policy_read_either_sign_of_a_quaternion_alike():
    normalizer, clip = make_normalizer(), make_clip(CONFIG)
    where = normalizer.layout.state_slice("left_rotation")
    other = clip.state.copy()
    other[::2, where] *= -1
    trained = encode.encode_clips([replace(clip, state=other)], normalizer).state[0]
    torch.testing.assert_close(trained, encode.encode_clips([clip], normalizer).state[0], rtol=0, atol=0)
    torch.testing.assert_close(trained, encode.encode_states(other, normalizer), rtol=0, atol=0)
    assert (trained[:, where.start] >= 0).all()
    other[0, where] = 0
    with pytest.raises(ValueError, match="state left_rotation has norm=0: must be a unit quaternion wxyz"):
        encode.encode_clips([replace(clip, state=other)], normalizer)


def test_calibration_counts_for_images_of_its_proportions():
    observation, known = make_observation(CONFIG), {c.name: c for c in make_cameras(CONFIG)}
    name = CONFIG.view_names[0]
    height, width = CONFIG.clip.height_px, CONFIG.clip.width_px
    known[name] = replace(known[name], width=848, height=480)
    shapes = ((480, 848, 3), True), ((144, 256, 3), True), ((126, 224, 3), True), ((height, width, 3), True)
    for shape, fits in (*shapes, ((480, 640, 3), False), ((2 * height, 2 * width, 3), False)):
        images = {**observation.images, name: np.zeros(shape, np.uint8)}
        seen = replace(observation, images=images, cameras={})
        with nullcontext() if fits else pytest.warns(UserWarning, match="are squeezed, it learned from 848 x 480 ones"):
            cameras = encode.cameras_seen(seen, CONFIG.view_names, CONFIG.clip, known)
        assert [camera.is_calibrated for camera in cameras] == [fits] + [True] * (len(cameras) - 1)
        encode.check_observation(seen, CONFIG.view_names, CONFIG.clip, make_normalizer().layout)
        if not fits:
            own = replace(seen, cameras={name: known[name]})
            with pytest.raises(ValueError, match="give the calibration of these images"):
                encode.check_observation(own, CONFIG.view_names, CONFIG.clip, make_normalizer().layout)
