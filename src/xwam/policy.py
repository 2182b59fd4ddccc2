"""Policy: observations in, the next actions at once, the imagined world a little later.

    for prediction in load_policy("checkpoints/tiny").predict(observation):
        if prediction.video is None: robot.follow(prediction.action)   # now
        else:                        show(prediction)                  # later: video, depth, states

Stop iterating after the first answer and the world is never computed.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from xwam import encode
from xwam.config import Config, DenoiseConfig, Mode, with_denoise_steps
from xwam.denoise.guidance import Denoiser
from xwam.denoise.noise import depth_apart, observed
from xwam.denoise.prefix import begin
from xwam.denoise.sampler import ActionsReady, StepDone, WorldReady, denoise_stepwise
from xwam.denoise.start import start_noise
from xwam.denoise.untaught import Lacking, kept_on_line, lacking_of
from xwam.model.clock import Clock
from xwam.model.device import device_of
from xwam.model.prompt import EncodedPrompts, PromptMemory
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.weights import load_weights
from xwam.model.xwam import XWAM
from xwam.records import Camera, Observation, Prediction
from xwam.robot.calibration import load_cameras
from xwam.robot.layout import load_layout
from xwam.robot.normalizer import Normalizer, load_normalizer
from xwam.robot.of_checkpoint import absent_views, robot_folder
from xwam.strict_json import load
from xwam.tensors import Given, NoiseLevels, Noisy, Prefix, Velocity

PROMPTS_FILE = "prompts.safetensors"


class Networks(NamedTuple):
    """The three networks of a checkpoint. ``text`` gets the text encoder, which is not needed for known prompts."""

    transformer: XWAM
    vae: VideoVae
    text: Callable[[], TextEncoder]
    has_text: bool = True  # False: stored prompts must do
    is_differentiable: bool = True  # products of integers are not (quantize.py)


class Policy:
    """One checkpoint, ready to answer. Stateless between requests, but for a cache of encoded prompts."""

    def __init__(
        self,
        config: Config,
        normalizer: Normalizer,
        cameras: Mapping[str, Camera],
        networks: Networks,
        *,
        device: str = "cpu",
        prompts: Mapping[str, Float[Tensor, "P Dt"]] | None = None,
        absent: Collection[str] = (),
    ) -> None:
        """``prompts``: instructions that are encoded already. ``absent``: views that this robot does not have."""
        self.absent = frozenset(absent)
        self.needed_views = tuple(name for name in config.view_names if name not in self.absent)
        self.config = config
        self.normalizer = normalizer
        self.layout = normalizer.layout
        self.cameras = cameras
        self.device = device_of(device)
        self._observed = observed(config, self.device)
        self.networks = networks
        networks.transformer.to(self.device).eval()
        networks.vae.to(self.device).eval()
        stored = {text: row.to(self.device) for text, row in (prompts or {}).items()}
        self.encoded = EncodedPrompts(stored, lambda text: self.text.encode_prompt(text))
        self._prepared = PromptMemory()

    @property
    def has_world(self) -> bool:
        """True where worlds can be asked for: it was trained for them, and loaded with what decodes them."""
        return "joint" in self.config.modes and self.networks.vae.has_decoder

    @cached_property
    def text(self) -> TextEncoder:
        """The text encoder, loaded when first used. Raises FileNotFoundError for a checkpoint without one."""
        return self.networks.text().to(self.device).eval()

    def predict(
        self,
        observation: Observation,
        *,
        seed: int = 0,
        actions_only: bool = False,
        steps: DenoiseConfig | None = None,
        prefix: Float[np.ndarray, "n Da"] | None = None,
        num_committed: int | None = None,
    ) -> Iterator[Prediction]:
        """One observation; yields the prediction with actions, then (unless ``actions_only``) the whole world.

        ``prefix``: what the robot still plays of its last chunk, from this observation on (real-time chunking). The
        answer begins with its first ``num_committed`` actions (None: all) and goes on from them.
        """
        for answers in self.predict_batch(
            [observation], seeds=[seed], actions_only=actions_only, steps=steps,
            prefixes=[prefix], num_committed=[num_committed],
        ):  # fmt: skip
            yield answers[0]

    def predict_batch(
        self,
        observations: Sequence[Observation],
        *,
        seeds: Sequence[int],
        actions_only: bool = False,
        steps: DenoiseConfig | None = None,
        prefixes: Sequence[Float[np.ndarray, "_ Da"] | None] | None = None,
        num_committed: Sequence[int | None] | None = None,
    ) -> Iterator[list[Prediction]]:
        """Several observations in one batch; each answer depends on its own observation and seed alone."""
        events = self.predict_stepwise(observations, seeds, actions_only, steps, prefixes, num_committed)
        return (event for event in events if not isinstance(event, StepDone))

    def predict_stepwise(
        self,
        observations: Sequence[Observation],
        seeds: Sequence[int],
        actions_only: bool = False,
        steps: DenoiseConfig | None = None,
        prefixes: Sequence[Float[np.ndarray, "_ Da"] | None] | None = None,
        num_committed: Sequence[int | None] | None = None,
    ) -> Generator[StepDone | list[Prediction]]:
        """``predict_batch`` that pauses (StepDone) wherever more urgent work may go first; close it to stop there."""
        steps = steps or self.config.denoise
        self.check_mode("policy" if actions_only else "joint")
        clock = Clock(self.device)
        first, start = self._start(observations, seeds)
        start, given, steered_by = self._go_on(start, prefixes, num_committed)
        clock.mark("encode")
        model = self.denoiser([o.instruction for o in observations], given, start)
        unconditional = None if steps.guidance == 1 else self.denoiser([""] * len(observations), given, start)
        clock.mark("text")
        events = denoise_stepwise(
            model, start, config=steps, given=given, actions_only=actions_only, unconditional=unconditional,
            steered_by=steered_by,
        )  # fmt: skip
        for event in events:
            if isinstance(event, StepDone):
                with clock.stopped():
                    yield event
            elif isinstance(event, ActionsReady):
                clock.mark("actions")
                answers = self._answers(observations, seeds, event, None, None, steps, clock.seconds)
                with clock.stopped():
                    yield answers
            else:
                clock.mark("world")
                video, depth = depth_apart(event.video, event.depth, self.config)
                video = yield from self._decode(video, clock)
                video = torch.cat([first, video[:, :, :, 1:]], dim=3)  # what was seen, not its reconstruction
                depth = None if depth is None else (yield from self._decode(depth, clock))
                clock.mark("decode")
                yield self._answers(observations, seeds, event, video, depth, steps, clock.seconds)

    def check_mode(self, mode: Mode) -> None:
        """Refuse what the checkpoint was not trained for, and worlds without a decoder."""
        if mode not in self.config.modes:
            raise ValueError(f"modes={self.config.modes}: this checkpoint was not trained for {mode!r}.")
        if mode != "policy" and not self.networks.vae.has_decoder:
            raise ValueError("this policy was loaded with_world=False: ask actions_only=True, or load it whole.")

    @torch.no_grad()
    def _start(self, observations: Sequence[Observation], seeds: Sequence[int]) -> tuple[Tensor, Noisy]:
        """The observed images and the noise to start from, with the observation in frame 0 and state 0."""
        config = self.config
        if len(observations) != len(seeds) or not observations:
            raise ValueError(f"{len(observations)} observations and {len(seeds)} seeds: give one seed for each.")
        known = (config.view_names, config.clip, self.normalizer, self.absent)
        encoded = [encode.encode_observation(seen, *known) for seen in observations]
        images = torch.stack([image for image, _ in encoded]).to(self.device)
        latents = encode.encode_views(self.networks.vae.encode, images)
        noise = start_noise(config, seeds, (latents.shape[-2], latents.shape[-1]))
        noise = Noisy(*(x.to(self.device) for x in noise))
        noise.video[:, :, :1, : len(config.view_names)] = latents
        noise.state[:, 0] = torch.stack([state for _, state in encoded]).to(self.device)
        return images, noise

    @torch.no_grad()
    def _go_on(
        self, start: Noisy, prefixes: Sequence[np.ndarray | None] | None, num_committed: Sequence[int | None] | None
    ) -> tuple[Noisy, Given, Prefix | None]:
        """Begin with what the robots still play of their last chunks."""
        if prefixes is None or (all(prefix is None for prefix in prefixes) and not any(num_committed or ())):
            return start, self._observed, None
        if len(prefixes) != len(start.action):
            raise ValueError(f"{len(prefixes)} prefixes for {len(start.action)} observations: one for each, or None.")
        counts = num_committed or [None] * len(prefixes)
        prefix = encode.encode_prefixes(prefixes, counts, self.config.clip.action_horizon, self.normalizer)
        max_prefix, can_steer = self.config.noise.max_prefix, self.networks.is_differentiable
        return begin(start, self._observed, prefix, max_prefix=max_prefix, can_steer=can_steer)

    @torch.no_grad()
    def denoiser(self, instructions: Sequence[str], given: Given, start: Noisy) -> Denoiser:
        """The transformer with its prompts and what is given filled in: what the sampler calls from ``start`` on."""
        transformer = self.networks.transformer
        prompt = self._prepared.prepare(transformer, instructions, self.encode_prompts)

        def denoiser(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
            return transformer(
                *noisy, *levels, prompt, given_frames=given.frames, given_states=given.states,
                given_actions=given.actions, depth=depth and transformer.config.has_depth,
                actions_only=not video,
            )  # fmt: skip

        return denoiser if self._lacking is None else kept_on_line(denoiser, start, self._lacking)

    @cached_property
    def _lacking(self) -> Lacking | None:
        return lacking_of(self.config, self.layout, self.absent, self.networks.vae.encode, self.device)

    def encode_prompts(self, instructions: Sequence[str]) -> Float[Tensor, "B P Dt"]:
        """Encoded instructions; each distinct one is encoded once and remembered."""
        return self.encoded.rows(instructions)

    def save_prompts(self, folder: Path, instructions: Sequence[str]) -> None:
        """Add encoded instructions (and the empty one) to a checkpoint folder, which then needs no text encoder."""
        self.encoded.save(folder / PROMPTS_FILE, [*instructions, ""])

    def _decode(self, latents: Tensor, clock: Clock) -> Generator[StepDone, None, Tensor]:
        """Latents ``B C F V h w`` to images ``B V 3 T H W``, view by view, with a pause before each."""
        views = []
        for view in range(latents.shape[3]):
            with clock.stopped():
                yield StepDone(view)
            with torch.no_grad():
                views.append(encode.decode_views(self.networks.vae.decode, latents[:, :, :, view : view + 1]))
        return torch.cat(views, dim=1)

    def _answers(
        self, observations: Sequence[Observation], seeds: Sequence[int], event: ActionsReady | WorldReady,
        video: Tensor | None, depth: Tensor | None, steps: DenoiseConfig, seconds: Mapping[str, float],
    ) -> list[Prediction]:  # fmt: skip
        clip, names = self.config.clip, self.config.view_names
        answers = []
        for row, (observation, seed) in enumerate(zip(observations, seeds, strict=True)):
            cameras = encode.cameras_seen(observation, names, clip, self.cameras)
            state, action = encode.to_robot_units(event.state[row], event.action[row], self.normalizer)
            state[0] = observation.state
            answer = Prediction(
                action=action, state=state, video=None if video is None else encode.tensor_to_video(video[row]),
                depth=None if depth is None else encode.tensor_to_depth(depth[row], cameras, steps.far_share),
                cameras=cameras, instruction=observation.instruction, frame_hz=clip.frame_hz,
                action_hz=clip.action_hz, seed=seed, seconds=dict(seconds),
            )  # fmt: skip
            answers.append(answer)
        return answers


def load_policy(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, with_world: bool = True,
    robot: str | None = None, action_steps: int | None = None, video_steps: int | None = None,
) -> Policy:  # fmt: skip
    """Load a checkpoint folder, weights file by file; ``dtype`` is the transformer's and the decoder's.

    ``robot``: one of those in its folder ``robots``, when it learned from several; None: its first one.
    ``with_world=False`` leaves depth branch and decoder on disk: such a policy answers actions only. ``action_steps``,
    ``video_steps``: instead of its own. Raises FileNotFoundError or ValueError that names what is at fault.
    """
    folder = Path(folder)
    config = with_denoise_steps(load(Config, folder / "config.json"), action_steps, video_steps)
    about = robot_folder(folder, robot)
    layout = load_layout(about / "layout.json")
    for name in ("state_width", "action_width"):
        expected, found = getattr(config.model, name), getattr(layout, name)
        if expected != found:
            raise ValueError(f"{folder}: the model's {name}={expected} but layout.json has {found} slots.")
    normalizer = load_normalizer(about / "normalizer.json", layout)
    networks = Networks(
        transformer=load_weights(
            folder / "model.safetensors", config.model, device=device, dtype=dtype, depth=with_world
        ),
        vae=VideoVae.load(folder / "vae", encoder_only=not with_world).set_decoder_dtype(dtype),
        text=partial(TextEncoder.load, folder / "text", config.model.text_length),
        has_text=(folder / "text").is_dir(),
    )
    cameras = {camera.name: camera for camera in load_cameras(about / "cameras.json")}
    prompts = load_file(folder / PROMPTS_FILE) if (folder / PROMPTS_FILE).is_file() else None
    absent = absent_views(about, config.view_names)
    networks.transformer.requires_grad_(False)  # a prefix steers by gradients, of the noise alone
    return Policy(config, normalizer, cameras, networks, device=device, prompts=prompts, absent=absent)
