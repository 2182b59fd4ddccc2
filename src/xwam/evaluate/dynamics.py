"""Forward dynamics: the world that given actions lead to.

Actions, and the states they lead through, are clean (level 0) from the first call on; only video and depth are
denoised. So the question is no longer "what will I do" but "what would happen".
"""

import numpy as np
import torch
from jaxtyping import Float

from xwam import encode
from xwam.config import Config, DenoiseConfig
from xwam.denoise.noise import NoiseLevels, Noisy, Velocity, depth_apart, observed
from xwam.denoise.sampler import WorldReady, denoise
from xwam.denoise.start import start_noise
from xwam.policy import Policy
from xwam.records import Observation, Prediction


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

    Raises ValueError when the checkpoint was not trained for it, or when the lengths are not the model's.
    """
    config, device = policy.config, policy.device
    clip, num_views = config.clip, len(config.view_names)
    _check(config, action, state)
    images, _ = encode.encode_observation(observation, config.view_names, clip, policy.normalizer)
    first = images[None].to(device)
    latents = encode.encode_views(policy.networks.vae.encode, first)
    video = start_noise(config, [seed], (latents.shape[-2], latents.shape[-1])).video.to(device)
    video[:, :, :1, :num_views] = latents
    start = Noisy(
        video=video,
        state=torch.from_numpy(policy.normalizer.normalize_state(state))[None].to(device),
        action=torch.from_numpy(policy.normalizer.normalize_action(action))[None].to(device),
    )
    given = observed(config, device)._replace(states=len(state), actions=len(action))
    transformer = policy.networks.transformer
    prompt = transformer.prompt_keys_values(policy.encode_prompts([observation.instruction]))

    def denoiser(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        output = transformer(
            *noisy, *levels, prompt,
            given_frames=given.frames, given_states=given.states, given_actions=given.actions,
            depth=depth and transformer.config.num_depth_blocks > 0, actions_only=not video,
        )  # fmt: skip
        return Velocity(*output)

    *_, world = denoise(denoiser, start, config=steps or config.denoise, given=given)
    assert isinstance(world, WorldReady)
    cameras = encode.cameras_seen(observation, config.view_names, clip, policy.cameras)
    decode = policy.networks.vae.decode
    video_latents, depth_latents = depth_apart(world.video, world.depth, config)
    imagined = encode.decode_views(decode, video_latents)[0]
    imagined[:, :, :1] = first[0]  # what was seen, not its reconstruction
    depth = None if depth_latents is None else encode.decode_views(decode, depth_latents)[0]
    return Prediction(
        action=action,
        state=state,
        video=encode.tensor_to_video(imagined),
        depth=None if depth is None else encode.tensor_to_depth(depth, cameras, config.denoise.far_share),
        cameras=cameras,
        instruction=observation.instruction,
        frame_hz=clip.frame_hz,
        action_hz=clip.action_hz,
        seed=seed,
        seconds={},
    )


def _check(config: Config, action: Float[np.ndarray, "Ta Da"], state: Float[np.ndarray, "Ts Ds"]) -> None:
    clip = config.clip
    if "forward_dynamics" not in config.modes:
        raise ValueError(f"modes={config.modes}: this checkpoint was not trained for forward_dynamics.")
    if len(action) != clip.action_horizon or len(state) != clip.num_states:
        raise ValueError(
            f"{len(action)} actions, {len(state)} states: give {clip.action_horizon} actions and {clip.num_states} "
            "states, one per frame."
        )
