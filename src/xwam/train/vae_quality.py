"""Does an autoencoder that was trained on other pictures keep what is on these? What it loses, no policy can see."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from xwam.config import Config
from xwam.data.clips import Clips, evenly_spaced
from xwam.encode import tensor_to_video, video_to_tensor
from xwam.evaluate.metrics import psnr
from xwam.model.vae import VideoVae
from xwam.train.sources import Source, clips_of

ENOUGH_DB = 22.0  # below it, small things have gone: the first autoencoder here lost the goal of reach-v3 at 20
CLIPS_TO_TRY = 4  # of each data set


@torch.no_grad()
def kept_db(vae: VideoVae, clips: Clips, device: torch.device) -> float:
    """PSNR of some clips after encoding and decoding, in dB: mean over the views that are there (NaN without any)."""
    found = []
    for index in evenly_spaced(len(clips), CLIPS_TO_TRY):
        clip = clips[index]
        for film in clip.video[clip.video_mask[:, 0]]:
            decoded = vae.decode(vae.encode(video_to_tensor(film[None]).to(device)))
            found.append(psnr(tensor_to_video(decoded)[0], film).mean())
    return float(np.mean(found)) if found else float("nan")


def warn_of_lost_pictures(config: Config, sources: Sequence[Source], start: Path, device: torch.device) -> None:
    """Warn of data sets whose pictures the start's autoencoder blurs."""
    vae = VideoVae.load(start / "vae").to(device)
    for source in sources:
        kept = kept_db(vae, clips_of(source, config), device)
        if kept < ENOUGH_DB:
            warnings.warn(
                f"{source.name}: the autoencoder of start={start} keeps its pictures at {kept:.1f} dB (its own: 25 and "
                "more): small things are lost before the policy sees them. Train it on first (`xwam train-vae "
                "--start`, docs/extend.md), or train without a start.",
                stacklevel=3,
            )
