"""How much does depth lose on its way? Metres -> image -> metres, at every stage, on held-out clips of a data set.

    python benchmarks/depth_codec.py checkpoints/tiny --data runs/tiny/data --clips 8

``image``: inverse depth in float32, as the policy uses it. ``8 bits``: the same as an 8-bit picture, as depth videos
of the published data sets hold it. ``VAE``: image, encoded and decoded by the checkpoint's VAE; no transformer takes
part, so this is the best depth that it can ever imagine. ``file``: our 12-bit logarithmic codes (data/depth.py), on
depths spread evenly over the range, because what lies in the data set has been through them.
Errors over the pixels that are known before and after; ``lost``: known pixels that come back as unknown.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from xwam import encode
from xwam.data.augment import centre_crop
from xwam.data.clips import Clips
from xwam.data.depth import DepthCoding, codes_to_depth, depth_to_codes
from xwam.data.lerobot import open_lerobot
from xwam.policy import load_policy
from xwam.records import Camera


def through_image(depth_m: np.ndarray, camera: Camera, levels: int | None = None) -> np.ndarray:
    """Metres to the VAE's image and back, on the way perhaps rounded to so many grey levels."""
    image = encode.depth_to_image(depth_m, camera.near_m, camera.far_m)
    if levels is not None:
        image = (np.rint((image + 1) / 2 * (levels - 1)) / (levels - 1) * 2 - 1).astype(np.float32)
    return encode.image_to_depth(image, camera.near_m, camera.far_m)


def through_file(depth_m: np.ndarray) -> np.ndarray:
    """Metres to the codes of our depth videos and back."""
    return codes_to_depth(depth_to_codes(depth_m, DepthCoding()), DepthCoding())


def main() -> None:
    """Print one line per stage and camera."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=8)
    asked = parser.parse_args()
    policy = load_policy(asked.checkpoint)
    clips = Clips(
        open_lerobot(asked.data), policy.config.clip, policy.config.view_names, split="validation", padded=False
    )
    chosen = np.random.default_rng(0).permutation(len(clips))[: asked.clips].tolist()
    pairs: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for index in chosen:
        clip = centre_crop(clips[index], crop=policy.config.clip.crop)
        assert clip.depth is not None
        with torch.no_grad():
            latents = encode.encode_views(
                policy.networks.vae.encode, encode.depth_to_tensor(clip.depth, clip.cameras)[None]
            )
            images = encode.decode_views(policy.networks.vae.decode, latents)[0]
        decoded = encode.tensor_to_depth(images, clip.cameras, policy.config.denoise.far_share)
        for view, camera in enumerate(clip.cameras):
            # beyond the declared range depth is not encoded: it counts as unknown from the start
            true = np.where(
                (clip.depth[view] >= camera.near_m) & (clip.depth[view] <= camera.far_m), clip.depth[view], 0
            )
            stages = {
                "image": through_image(true, camera),
                "8 bits": through_image(true, camera, 256),
                "VAE": decoded[view],
            }
            for stage, back in stages.items():
                pairs.setdefault((f"{camera.name}, {camera.near_m:g} to {camera.far_m:g} m", stage), []).append(
                    (true, back)
                )
    for camera in clips.cameras:
        even = np.linspace(camera.near_m, camera.far_m, 100_000, dtype=np.float32)
        pairs[(f"{camera.name}, {camera.near_m:g} to {camera.far_m:g} m", "file")] = [(even, through_file(even))]
    print(f"{len(chosen)} clips of {asked.data}, checkpoint {asked.checkpoint}; errors in mm")
    print(f"{'camera and range':28} {'stage':8} {'median':>8} {'95 %':>8} {'largest':>9} {'AbsRel':>8} {'lost':>7}")
    for (camera, stage), found in pairs.items():
        true, back = (np.concatenate([pair[side].ravel() for pair in found]) for side in (0, 1))
        known = (true > 0) & (back > 0)
        error = np.abs(back[known] - true[known].astype(np.float64))
        middle, high = np.quantile(1000 * error, [0.5, 0.95])
        lost = 1 - known.sum() / (true > 0).sum()
        print(
            f"{camera:28} {stage:8} {middle:8.3f} {high:8.3f} {1000 * error.max():9.2f} "
            f"{np.mean(error / true[known]):8.5f} {lost:7.2%}"
        )


if __name__ == "__main__":
    main()
