"""Classifier-free guidance: away from what the model does without an instruction.

``unconditional + scale (conditional - unconditional)`` on video, state and action. Depth is never guided.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from xwam.tensors import NoiseLevels, Noisy, Velocity


@runtime_checkable
class Denoiser(Protocol):
    """A network that already knows its prompt and what is given.

    ``depth`` asks for the depth as well. With ``video`` False the answer's video may be None: nobody will read it.
    """

    def __call__(self, noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        """Predict the velocities at these levels."""
        ...


def guided(conditional: Denoiser, unconditional: Denoiser | None, scale: float) -> Denoiser:
    """One denoiser out of two. Scale 1 is the conditional one alone, at the price of one pass."""
    if scale == 1:
        return conditional
    if unconditional is None:
        raise ValueError(
            f"guidance={scale} needs a second denoiser with the empty prompt: pass unconditional=…, or use guidance 1."
        )

    def denoiser(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        cond = conditional(noisy, levels, depth=depth, video=video)
        uncond = unconditional(noisy, levels, depth=False, video=video)
        return Velocity(
            video=_mix(cond.video, uncond.video, scale) if video else None,
            depth=cond.depth,
            state=_mix(cond.state, uncond.state, scale),
            action=_mix(cond.action, uncond.action, scale),
        )

    return denoiser


def _mix(conditional: Tensor | None, unconditional: Tensor | None, scale: float) -> Tensor:
    assert conditional is not None, "a denoiser asked for video must answer it"
    assert unconditional is not None, "a denoiser asked for video must answer it"
    return unconditional + scale * (conditional - unconditional)
