"""Forward dynamics: the world that given actions lead to.

Actions, and the states they lead through, are clean (level 0) from the first call on; only video and depth are
denoised. So the question is no longer "what will I do" but "what would happen".
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xwam import encode
from xwam.config import Config, DenoiseConfig
from xwam.denoise.noise import depth_apart, observed
from xwam.denoise.sampler import WorldReady, denoise
from xwam.denoise.start import start_noise
from xwam.model.clock import Clock
from xwam.policy import Policy
from xwam.records import Observation, Prediction
from xwam.robot.layout import Layout
from xwam.tensors import Noisy

SAME_STATE = 0.01  # of half a span of the statistics: what rounding and a sensor's noise may differ by


@torch.no_grad()
def imagine_actions(
    policy: Policy,
    observation: Observation,
    action: Float[np.ndarray, "Ta Da"],
    state: Float[np.ndarray, "Ts Ds"],
    *,
    seed: int = 0,
    steps: DenoiseConfig | None = None,
) -> Prediction:
    """Imagine what follows when ``action`` is played and the robot passes through ``state`` (one per frame).

    Both in the Layout's units; ``state[0]`` is the observation's. Raises ValueError when the checkpoint was not trained
    for it, when the lengths are not the model's, or when the path starts elsewhere.
    """
    policy.check_mode("forward_dynamics")
    config, decode, steps = policy.config, policy.networks.vae.decode, steps or policy.config.denoise
    clip, names = config.clip, config.view_names
    _check_lengths(config, action, state)
    clock = Clock(policy.device)
    images, seen = encode.encode_observation(observation, names, clip, policy.normalizer, policy.absent)
    first = images[None].to(policy.device)
    latents = encode.encode_views(policy.networks.vae.encode, first)
    states = encode.encode_states(state, policy.normalizer)[None]
    is_same = np.isclose(state[0], observation.state, rtol=1e-5, atol=1e-6) | _near(states[0, 0], seen, policy.layout)
    if not is_same.all():
        raise ValueError("state[0] differs from observation.state: both say where the robot is now; start there.")
    actions = torch.from_numpy(policy.normalizer.normalize_action(action))[None]
    clock.mark("encode")
    video, depth = latents_of_actions(
        policy, [observation.instruction], latents, states, actions, seeds=[seed], steps=steps
    )
    clock.mark("world")
    imagined = encode.decode_views(decode, video)[0]
    imagined[:, :, :1] = first[0]  # what was seen, not its reconstruction
    depth_images = None if depth is None else encode.decode_views(decode, depth)[0]
    cameras = encode.cameras_seen(observation, names, clip, policy.cameras)
    clock.mark("decode")
    return Prediction(
        action=action,
        state=state,
        video=encode.tensor_to_video(imagined),
        depth=None if depth_images is None else encode.tensor_to_depth(depth_images, cameras, steps.far_share),
        cameras=cameras,
        instruction=observation.instruction,
        frame_hz=clip.frame_hz,
        action_hz=clip.action_hz,
        seed=seed,
        seconds=clock.seconds,
    )


@torch.no_grad()
def latents_of_actions(
    policy: Policy,
    instructions: Sequence[str],
    first: Float[Tensor, "B C 1 V h w"],
    state: Float[Tensor, "B Ts Ds"],
    action: Float[Tensor, "B Ta Da"],
    *,
    seeds: Sequence[int],
    steps: DenoiseConfig | None = None,
) -> tuple[Float[Tensor, "B C F V h w"], Float[Tensor, "B C F V h w"] | None]:
    """Video and depth that given actions lead to, before the decoder; states and actions normalised.

    Raises ValueError when the checkpoint was not trained for it.
    """
    policy.check_mode("forward_dynamics")
    config, device = policy.config, policy.device
    start = start_noise(config, seeds, (first.shape[-2], first.shape[-1]))
    video = start.video.to(device)
    video[:, :, :1, : first.shape[3]] = first
    given = observed(config, device)._replace(states=state.shape[1], actions=action.shape[1])
    known = Noisy(video=video, state=state.to(device), action=action.to(device))
    model = policy.denoiser(instructions, given, known)
    steps = steps or config.denoise
    unconditional = None if steps.guidance == 1 else policy.denoiser([""] * len(instructions), given, known)
    *_, world = denoise(model, known, config=steps, given=given, unconditional=unconditional)
    assert isinstance(world, WorldReady)
    return depth_apart(world.video, world.depth, config)


def _near(a: Float[Tensor, " Ds"], b: Float[Tensor, " Ds"], layout: Layout) -> Bool[np.ndarray, " Ds"]:
    """Which slots of two normalised states say the same; a rotation counts as a whole, in either sign."""
    near = (a - b).abs() <= SAME_STATE
    for _, where in layout.quaternions:
        near[where] = torch.minimum((a[where] - b[where]).norm(), (a[where] + b[where]).norm()) <= SAME_STATE
    return near.numpy()


def _check_lengths(config: Config, action: Float[np.ndarray, "Ta Da"], state: Float[np.ndarray, "Ts Ds"]) -> None:
    clip = config.clip
    if len(action) != clip.action_horizon or len(state) != clip.num_states:
        raise ValueError(
            f"{len(action)} actions, {len(state)} states: give {clip.action_horizon} actions and {clip.num_states} "
            "states, one per frame."
        )
