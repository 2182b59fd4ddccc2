"""What a robot lacks stays, at inference, on the line that it was on in training.

In training the slots of parts that a robot lacks are 0 plus noise, and the pictures of cameras that it lacks grey plus
noise; no loss asks for them. A network that is trusted with them leads them anywhere, and the rest of the sequence,
which looks at them, sees what it never saw. So their velocity is the known one: ``noise - clean``.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xwam.config import Config
from xwam.denoise.guidance import Denoiser
from xwam.encode import video_to_tensor
from xwam.images import GREY
from xwam.robot.layout import Layout
from xwam.tensors import NoiseLevels, Noisy, Velocity


class Lacking(NamedTuple):
    """What a robot lacks, and what training had in its place: zeros, and a film of grey pictures."""

    state: Bool[Tensor, " Ds"]
    action: Bool[Tensor, " Da"]
    views: Int[Tensor, " n"]
    grey: Float[Tensor, "C F h w"] | None  # None: it lacks no camera


def lacking_of(
    config: Config, layout: Layout, absent: Collection[str], encoder: Callable[[Tensor], Tensor], device: torch.device
) -> Lacking | None:
    """What a robot with this layout and without these views lacks of what the model knows.

    None for nothing, or where that is left to the network (``hold_lacking``).
    """
    has_all = layout.state_mask.all() and layout.action_mask.all() and not absent
    if has_all or not config.denoise.hold_lacking:
        return None
    clip, grey = config.clip, None
    if absent:
        film = np.full((1, clip.num_frames, clip.height_px, clip.width_px, 3), GREY, np.uint8)
        (grey,) = encoder(video_to_tensor(film).to(device))
    views = [place for place, name in enumerate(config.view_names) if name in absent]
    state, action = (torch.from_numpy(~mask).to(device) for mask in (layout.state_mask, layout.action_mask))
    return Lacking(state, action, torch.tensor(views, dtype=torch.long, device=device), grey)


def kept_on_line(model: Denoiser, start: Noisy, lacking: Lacking) -> Denoiser:
    """The same denoiser, but for what the robot lacks; ``start`` is the noise that it begins with."""

    def denoiser(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        answer = model(noisy, levels, depth=depth, video=video)
        moving = answer.video
        if moving is not None and lacking.grey is not None:
            known = start.video[:, :, :, lacking.views] - lacking.grey[None, :, :, None]
            moving = moving.index_copy(3, lacking.views, known.to(moving.dtype))
        return answer._replace(
            video=moving,
            state=torch.where(lacking.state, start.state.to(answer.state.dtype), answer.state),
            action=torch.where(lacking.action, start.action.to(answer.action.dtype), answer.action),
        )

    return denoiser
