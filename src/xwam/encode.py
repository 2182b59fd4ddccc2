"""Physical units <-> model tensors: the one path of training and of the policy.

In: records (uint8 images, metres, the Layout's units). Out: float tensors (images in [-1, 1], normalised
states and actions), and back. Images become latents through a VAE that is passed in; this room knows no network.

Depth travels as an image: with ``n, f`` the camera's near and far distance, a depth ``z`` becomes
``2 (1/z - 1/f) / (1/n - 1/f) - 1``, so near is 1 and far is -1 (inverse depth: fine where the hand works).
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from xwam.config import TIME_STRIDE, ClipConfig, DenoiseConfig
from xwam.images import GREY, centre_window, cropped_camera, resize_and_centre_crop
from xwam.records import Camera, Clip, Observation
from xwam.robot.layout import Layout
from xwam.robot.normalizer import Normalizer
from xwam.strict_json import suggest
from xwam.tensors import Pixels, Prefix

Encoder = Callable[[Tensor], Tensor]
"""Maps images ``B 3 T H W`` in [-1, 1] to latents ``B C F h w``."""


# --- images and depth -------------------------------------------------------------------------------------------


def depth_to_image(depth_m: Float[np.ndarray, "*any"], near_m: float, far_m: float) -> Float[np.ndarray, "*any"]:
    """Metres to [-1, 1] (inverse depth). Unknown (0) and beyond ``far_m`` give -1; nearer than ``near_m`` gives 1."""
    known = np.where(depth_m > 0, depth_m, far_m)
    inverse = 1 / np.clip(known, near_m, far_m)
    return (2 * (inverse - 1 / far_m) / (1 / near_m - 1 / far_m) - 1).astype(np.float32)


def image_to_depth(
    image: Float[np.ndarray, "*any"], near_m: float, far_m: float, far_share: float = DenoiseConfig.far_share
) -> Float[np.ndarray, "*any"]:
    """The inverse of depth_to_image, in metres; 0 (unknown) in the last ``far_share`` of the image's values."""
    inverse = (np.clip(image, -1, 1).astype(np.float64) + 1) / 2 * (1 / near_m - 1 / far_m) + 1 / far_m
    return np.where(image <= -1 + 2 * far_share, 0.0, 1 / inverse).astype(np.float32)


def video_to_tensor(video: UInt8[np.ndarray, "*views T H W 3"]) -> Float[Tensor, "*views 3 T H W"]:
    """Bytes to [-1, 1], channels before time."""
    return torch.from_numpy(np.ascontiguousarray(video)).movedim(-1, -4).float() / 127.5 - 1


def tensor_to_video(video: Float[Tensor, "*views 3 T H W"]) -> UInt8[np.ndarray, "*views T H W 3"]:
    """The inverse of video_to_tensor; values outside [-1, 1] are clipped."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-4, -1).cpu().numpy()


def depth_to_tensor(depth_m: Float[np.ndarray, "V T H W"], cameras: Sequence[Camera]) -> Float[Tensor, "V 3 T H W"]:
    """Metres to three equal channels in [-1, 1], each view with its own camera's range."""
    images = [depth_to_image(view, c.near_m, c.far_m) for view, c in zip(depth_m, cameras, strict=True)]
    return torch.from_numpy(np.stack(images))[:, None].expand(-1, 3, -1, -1, -1)


def tensor_to_depth(
    depth: Float[Tensor, "V 3 T H W"], cameras: Sequence[Camera], far_share: float = DenoiseConfig.far_share
) -> Float[np.ndarray, "V T H W"]:
    """The inverse of depth_to_tensor (mean over the channels), in metres, 0 where far away or never taught."""
    images = depth.float().mean(dim=1).cpu().numpy()
    return np.stack(
        [image_to_depth(x, c.near_m, c.far_m, far_share) * c.has_depth for x, c in zip(images, cameras, strict=True)]
    )


# --- clips (training) -------------------------------------------------------------------------------------------


def latent_mask(mask: Bool[np.ndarray, "V T"]) -> Bool[Tensor, "F V"]:
    """A latent frame counts when every video frame in it is real. Latent 0 is frame 0, latent f the next four."""
    first, rest = mask[:, :1], mask[:, 1:]
    groups = rest.reshape(len(mask), -1, TIME_STRIDE).all(axis=-1)
    return torch.from_numpy(np.concatenate([first, groups], axis=1).T.copy())


def encode_clips(clips: Sequence[Clip], normalizer: Normalizer) -> Pixels:
    """Clips of equal sizes to a batch. A clip without depth gives zeros and a False depth mask."""
    layout = normalizer.layout
    rows = []
    for clip in clips:
        video = video_to_tensor(clip.video)
        depth, depth_mask = torch.zeros_like(video), np.zeros_like(clip.video_mask)
        if clip.depth is not None:
            depth, depth_mask = depth_to_tensor(clip.depth, clip.cameras), clip.depth_mask
        rows.append(
            Pixels(
                video=video,
                depth=depth,
                state=encode_states(clip.state, normalizer),
                action=torch.from_numpy(normalizer.normalize_action(clip.action)),
                video_mask=latent_mask(clip.video_mask),
                depth_mask=latent_mask(depth_mask),
                state_mask=torch.from_numpy(clip.state_mask[:, None] & layout.state_mask),
                action_mask=torch.from_numpy(clip.action_mask[:, None] & layout.action_mask),
                executed=torch.from_numpy(normalizer.normalize_action(clip.executed)),
            )
        )
    return Pixels(*(torch.stack(column) for column in zip(*rows, strict=True)))


def encode_views(encoder: Encoder, video: Float[Tensor, "B V 3 T H W"]) -> Float[Tensor, "B C F V h w"]:
    """All views of all samples through the VAE in one batch."""
    batch_size, num_views = video.shape[:2]
    return encoder(video.flatten(0, 1)).unflatten(0, (batch_size, num_views)).movedim(1, 3)


def decode_views(
    decoder: Callable[[Tensor], Tensor], latents: Float[Tensor, "B C F V h w"]
) -> Float[Tensor, "B V 3 T H W"]:
    """The inverse of encode_views, one view at a time: memory stays that of one view."""
    return torch.stack([decoder(latents[:, :, :, view]) for view in range(latents.shape[3])], dim=1)


# --- observations (the policy) ----------------------------------------------------------------------------------


def check_observation(
    observation: Observation,
    view_names: Sequence[str],
    clip: ClipConfig,
    layout: Layout,
    absent: Collection[str] = (),
) -> None:
    """Refuse what the model cannot see: missing cameras, wrong image types, states that are not numbers."""
    for name in (name for name in view_names if name not in absent):
        if name not in observation.images:
            raise ValueError(f"camera={name!r} is missing from the observation: {suggest(name, observation.images)}")
        image = observation.images[name]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise ValueError(
                f"image of camera {name!r} has dtype={image.dtype}, shape={image.shape}: must be uint8 H W 3 (RGB)."
            )
        camera = observation.cameras.get(name)
        if camera is not None and not _fits(camera, image, clip):
            raise ValueError(
                f"camera {name!r} is {camera.width} x {camera.height}, its image {image.shape[1]} x {image.shape[0]} "
                "(width x height): give the calibration of these images."
            )
    if observation.state.ndim != 1:
        raise ValueError(f"state has shape {observation.state.shape}: must be one vector of {layout.state_width}.")
    layout.check_state(observation.state)
    if not observation.instruction.strip():
        raise ValueError(f"instruction={observation.instruction!r}: say in words what the robot should do.")


def encode_observation(
    observation: Observation,
    view_names: Sequence[str],
    clip: ClipConfig,
    normalizer: Normalizer,
    absent: Collection[str] = (),
) -> tuple[Float[Tensor, "V 3 1 H W"], Float[Tensor, " Ds"]]:
    """One image per view (resized, centre-cropped as training expects) and the state, normalised.

    ``absent``: views that this robot does not have; they are grey, as in training.
    """
    check_observation(observation, view_names, clip, normalizer.layout, absent)
    grey = np.full((clip.height_px, clip.width_px, 3), GREY, np.uint8)
    images = [grey if name in absent else resize_and_centre_crop(observation.images[name], clip) for name in view_names]
    return video_to_tensor(np.stack(images)[:, None]), encode_states(observation.state, normalizer)


def encode_states(states: Shaped[np.ndarray, "*steps Ds"], normalizer: Normalizer) -> Float[Tensor, "*steps Ds"]:
    """States as the network sees them, in training and in the policy: normalised, quaternions with ``w >= 0``.

    Robots report either sign. Raises ValueError for a rotation that is no unit quaternion.
    """
    layout = normalizer.layout
    layout.check_state(states)
    layout.check_quaternions(states)
    return torch.from_numpy(normalizer.normalize_state(layout.with_positive_quaternions(states)))


def encode_prefixes(
    prefixes: Sequence[Float[np.ndarray, "_ Da"] | None],
    num_committed: Sequence[int | None],
    horizon: int,
    normalizer: Normalizer,
) -> Prefix:
    """Old chunks' remainders, normalised. ``num_committed`` None: all of it. Raises ValueError for impossible ones."""
    action = torch.zeros(len(prefixes), horizon, normalizer.layout.action_width)
    known, committed = [], []
    for row, (prefix, count) in enumerate(zip(prefixes, num_committed, strict=True)):
        if prefix is not None and prefix.ndim != 2:
            width = normalizer.layout.action_width
            raise ValueError(f"prefix has shape {prefix.shape}: must be (n, {width}), one row per action.")
        length = 0 if prefix is None else len(prefix)
        count = length if count is None else count
        most = min(length, horizon - 1)
        if length > horizon or not 0 <= count <= most:
            raise ValueError(
                f"prefix of {length} actions, num_committed={count}: a prefix has at most {horizon} actions (the "
                f"action horizon), of which 0..{most} may be committed; at least one is left to predict."
            )
        if prefix is not None and length:
            action[row, :length] = torch.from_numpy(normalizer.normalize_action(prefix))
        known.append(length)
        committed.append(count)
    return Prefix(action, torch.tensor(known), torch.tensor(committed))


def cameras_seen(
    observation: Observation, view_names: Sequence[str], clip: ClipConfig, known: Mapping[str, Camera]
) -> tuple[Camera, ...]:
    """The calibration of the images the model sees: the observation's own, else the checkpoint's, cropped alike.

    The checkpoint's counts only for images of its camera's proportions (warns otherwise): those of another lens or
    crop have no calibration. Depth is as in the pictures that were learned: its range, and where in a pixel it lies.
    """
    seen = []
    for name in view_names:
        camera, image = observation.cameras.get(name) or known.get(name), observation.images.get(name)
        if camera is None:
            camera = Camera(name=name, width=clip.width_px, height=clip.height_px)
        elif image is not None and name in known and not _fits(known[name], image, clip):
            size, shape = f"{known[name].width} x {known[name].height}", f"{image.shape[1]} x {image.shape[0]}"
            warnings.warn(f"camera {name!r}: {shape} images are squeezed, it learned from {size} ones.", stacklevel=2)
            camera = replace(camera, intrinsics=camera.intrinsics if name in observation.cameras else None)
        camera = centre_cropped(camera, clip)
        if name in known:  # imagined as in the pictures it learned from
            learned = centre_cropped(known[name], clip)
            taught = {key: vars(learned)[key] for key in ("near_m", "far_m", "depth_at", "has_depth")}
            camera = replace(camera, **taught, on_hand=camera.on_hand or learned.on_hand)
        seen.append(camera)
    return tuple(seen)


def _fits(camera: Camera, image: UInt8[np.ndarray, "H W 3"], clip: ClipConfig) -> bool:
    """True for images of the camera's proportions (to within a pixel), or of the clip's size: resized by the robot.

    Also where nobody said what the pictures were: of its cameras a converted checkpoint knows the clip's size alone.
    """
    height, width = image.shape[:2]
    size = (clip.width_px, clip.height_px)
    if (width, height) == size or (not camera.is_calibrated and (camera.width, camera.height) == size):
        return True
    return abs(camera.width * height - camera.height * width) <= max(camera.width, camera.height)


def centre_cropped(camera: Camera, clip: ClipConfig) -> Camera:
    """A camera after resize, centre crop and resize back: the path of ``resize_and_centre_crop``."""
    window = centre_window(clip.height_px, clip.width_px, clip.crop)
    return cropped_camera(camera.resized(clip.width_px, clip.height_px), window)


def to_robot_units(
    state: Float[Tensor, "Ts Ds"], action: Float[Tensor, "Ta Da"], normalizer: Normalizer
) -> tuple[Shaped[np.ndarray, "Ts Ds"], Shaped[np.ndarray, "Ta Da"]]:
    """Normalised states and actions back to the Layout's units; quaternions are made unit again, ``w >= 0``."""
    states = normalizer.denormalize_state(state.float().cpu().numpy())
    for _, where in normalizer.layout.quaternions:
        states[:, where] /= np.maximum(np.linalg.norm(states[:, where], axis=-1, keepdims=True), 1e-8)
    states = normalizer.layout.with_positive_quaternions(states)
    return states, normalizer.denormalize_action(action.float().cpu().numpy())
