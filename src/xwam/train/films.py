"""Films for the autoencoder: what the cameras of some episodes saw, in memory, in the size of the clips."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from xwam.config import ClipConfig, Config
from xwam.data.clips import evenly_spaced
from xwam.data.episodes import Episodes, camera_named
from xwam.encode import depth_to_image
from xwam.images import resize, resize_nearest, to_bytes
from xwam.records import Camera
from xwam.train.sources import Source, clips_of, has_depth, shares
from xwam.train.vae_recipe import Film

EPISODES_FOR_VAE = 140  # whose films lie in memory side by side
MOST_FILM_BYTES = 8e9
FRAMES_AT_ONCE = 128  # that are read in full size


def films_of(config: Config, sources: Sequence[Source], num_episodes: int | None = None) -> list[Film]:
    """What an autoencoder is trained on: films of so many episodes, none held out, from all cameras.

    They lie in memory. None: EPISODES_FOR_VAE, or as many as MOST_FILM_BYTES hold, with a warning.
    """
    clip, chosen, needed = config.clip, [], 0
    for source, share in zip(sources, shares(sources, num_episodes or EPISODES_FOR_VAE), strict=True):
        clips, episodes = clips_of(source, config), source.episodes  # of the training split
        some = [clips.numbers[place] for place in evenly_spaced(len(clips.numbers), share)]
        names = [camera.name for camera in clips.seen_cameras]
        frames = sum(episodes.length(number) for number in some) * len(names)
        needed += frames * clip.height_px * clip.width_px * (5 if has_depth(source, names) else 3)  # bytes of a pixel
        chosen.append((episodes, some, names))
    if num_episodes is None and needed > MOST_FILM_BYTES:
        kept = MOST_FILM_BYTES / needed
        warnings.warn(
            f"{EPISODES_FOR_VAE} episodes would take {needed / 1e9:.0f} GB of memory: the autoencoder learns from "
            f"{kept:.0%} of them. `xwam train-vae --episodes N`, into the run's folder frozen, takes any number.",
            stacklevel=2,
        )
        fewer = [evenly_spaced(len(some), max(1, int(kept * len(some)))) for _, some, _ in chosen]
        chosen = [(e, [some[n] for n in places], names) for (e, some, names), places in zip(chosen, fewer, strict=True)]
    films = []
    for episodes, some, names in chosen:
        films += load_films(episodes, some, names, clip)
    return films


def load_films(episodes: Episodes, indices: Sequence[int], view_names: Sequence[str], clip: ClipConfig) -> list[Film]:
    """Colour and, where there is one, depth of these episodes and cameras, in memory (82 kB for a 128 px frame).

    Of the size of ``clip``, so that the autoencoder learns the scale that it will be asked to encode.
    """
    size = (clip.height_px, clip.width_px)

    def coloured(frames: np.ndarray, _: Camera) -> np.ndarray:
        return to_bytes(resize(frames, *size, antialias=clip.antialias))

    def coded(metres: np.ndarray, camera: Camera) -> np.ndarray:
        near, far = camera.near_m, camera.far_m
        return depth_to_image(resize_nearest(metres, *size), near, far).astype(np.float16)

    films: list[Film] = []
    for index in tqdm(indices, desc="read", unit="episode"):
        for camera in (camera_named(episodes.cameras, name) for name in view_names):
            for read, made in ((episodes.frames, coloured), (episodes.depth, coded)):
                if (film := _film(read, made, index, camera, episodes.length(index))) is not None:
                    films.append(film)
    return films


def _film(read: Callable, made: Callable, index: int, camera: Camera, length: int) -> Film | None:
    """All pictures of an episode, FRAMES_AT_ONCE of them in full size; None where there are none."""
    found = []
    for steps in np.array_split(np.arange(length), -(-length // FRAMES_AT_ONCE)):
        pictures = read(index, camera.name, steps)
        if pictures is None:
            return None
        found.append(made(pictures, camera))
    return torch.from_numpy(np.concatenate(found))
