"""A step cache for the world phase: between two calls of the network, its last velocities are used once more.

Changes the answer (docs/results.md says by how much), so it is off unless asked for; and never while actions are being
denoised: a robot acts on those.
"""

from xwam.denoise.guidance import Denoiser
from xwam.tensors import NoiseLevels, Noisy, Velocity


def reusing(model: Denoiser, num_action_steps: int, every: int) -> Denoiser:
    """A denoiser for one request: after the actions, only one call in ``every`` runs the network.

    Calls that ask for depth always run it. Raises ValueError for ``every`` below 1.
    """
    if every < 1:
        raise ValueError(f"reuse_every={every}: 1 runs the network at every step, 2 at every other one.")
    if every == 1:
        return model
    num_calls, known = 0, None

    def denoiser(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        nonlocal num_calls, known
        num_calls += 1
        in_world_phase = num_calls > num_action_steps
        if known is None or depth or not in_world_phase or (num_calls - num_action_steps - 1) % every == 0:
            known = model(noisy, levels, depth=depth, video=video)
        return known

    return denoiser
