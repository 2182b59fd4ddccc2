"""What a run looks at while it trains: held-out clips, imagined whole, and the pictures of the first batch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xwam.config import Config
from xwam.data.augment import centre_crop
from xwam.data.clips import Clips
from xwam.encode import decode_views, encode_clips, encode_views, tensor_to_video
from xwam.evaluate.clips import one_of_each, score_clip
from xwam.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop
from xwam.evaluate.compare import summarize
from xwam.images import encoded
from xwam.model.device import device_of
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM
from xwam.policy import Networks, Policy
from xwam.sim.simulators import simulator_named
from xwam.tensors import Batch
from xwam.train import step
from xwam.train.checkpoint import Robot
from xwam.train.loop import Run, Validate
from xwam.train.options import Watch
from xwam.train.prompts import encoded_prompts

NUM_DRAWS = 4  # of noise, for every held-out clip
Prompts = Mapping[str, Float[Tensor, "P Dt"]]

SHOWN = ("psnr_db", "psnr_copy_db", "moving_psnr_db", "abs_rel")
SHOWN += ("action_position_m", "action_position_copy_m", "action_joints_rad", "action_joints_copy_rad")
SHOWN += ("path_left_position_m", "path_right_position_m")


def make_validate(
    config: Config, held_out: Mapping[str, tuple[Clips, Robot]], run: Run, *, num_clips: int, device: str = "cpu"
) -> Validate:
    """Numbers on ``num_clips`` fixed clips of every data set (``held_out``, by name), with the same noise every time.

    Where there are several, their names stand before the numbers (``bridge/psnr_db``). Instructions are encoded once,
    on the CPU: the text encoder (11 GB at the published size) never enters the device.
    """
    vae = VideoVae.load(run.frozen / "vae")
    text = partial(TextEncoder.load, run.frozen / "text", config.model.text_length)
    networks = Networks(_unfilled(config, device), vae, text)
    looks = {
        name: _look(config, *clips_and_robot, run, networks, num_clips=num_clips, device=device)
        for name, clips_and_robot in held_out.items()
    }

    def validate(average: dict[str, Tensor], now: int) -> dict[str, float]:
        networks.transformer.load_state_dict(average)
        found = {name: look() for name, look in looks.items()}
        if len(found) == 1:
            return next(iter(found.values()))
        return {f"{name}/{what}": value for name, numbers in found.items() for what, value in numbers.items()}

    return validate


def _look(
    config: Config, clips: Clips, robot: Robot, run: Run, networks: Networks, *, num_clips: int, device: str
) -> Callable[[], dict[str, float]]:
    """Numbers of one data set, with the weights as they are when it is asked.

    Losses are means over several draws of noise, as in training; one that has nothing to count is left out.
    """
    cameras = {camera.name: camera for camera in robot.cameras}
    absent = set(config.view_names) - set(cameras)
    chosen = one_of_each(clips, num_clips, seed=0)
    words = sorted({"", *(clips[i].instruction for i in chosen)})
    prompts = encoded_prompts(words, run.frozen, run.out / "prompts.safetensors", config.model.text_length)
    policy = Policy(config, robot.normalizer, cameras, networks, device=device, prompts=prompts, absent=absent)
    batch = _encoded([clips[i] for i in chosen], config, robot, networks.vae, prompts, device)
    drawn = (step.draw(batch, config, torch.Generator().manual_seed(seed)) for seed in range(NUM_DRAWS))
    draws = [step.only_taught(one, batch) for one in drawn]
    (empty,) = policy.encode_prompts([""])
    shown = [i for i in chosen if clips[i].action_mask.any()]  # the policy follows no wandering

    @torch.no_grad()
    def look() -> dict[str, float]:
        found = [step.compute_terms(networks.transformer, batch, one, empty) for one in draws]
        sums = {name: (sum(t[name].sum for t in found), sum(t[name].count for t in found)) for name in found[0]}
        numbers = {f"loss/{name}": float(total / count) for name, (total, count) in sums.items() if count}
        scores = summarize([score_clip(policy, clips[i], seed=i) for i in shown]) if shown else {}
        return numbers | {name: scores[name] for name in SHOWN if name in scores}

    return look


def make_closed_loop(config: Config, run: Run, watch: Watch, *, device: str = "cpu") -> Validate:
    """Success in the simulator with the averaged weights, the same placements every time; kept in ``out/closed-loop``.

    A late checkpoint may be worse than an earlier one, and no loss says so.
    """
    model, frozen = _unfilled(config, device), run.frozen
    vae = VideoVae.load(frozen / "vae", encoder_only=True)
    networks = Networks(model, vae, partial(TextEncoder.load, frozen / "text", config.model.text_length))
    cameras = {camera.name: camera for camera in run.robot.cameras}
    absent = set(config.view_names) - set(cameras)
    policy = Policy(config, run.robot.normalizer, cameras, networks, device=device, absent=absent)
    limit = (
        simulator_named(watch.evaluate_simulator).max_steps
        if watch.evaluate_max_steps is None
        else watch.evaluate_max_steps
    )
    settings = ClosedLoopConfig(
        simulator=watch.evaluate_simulator,
        tasks=watch.evaluate_tasks,
        num_episodes=watch.evaluate_episodes,
        seed=99,  # not those of the evaluation that counts
        replan_every=config.clip.action_horizon // 2,
        max_steps=limit,
        num_envs=1,
    )

    def evaluate(average: dict[str, Tensor], now: int) -> dict[str, float]:
        model.load_state_dict(average)
        path = run.out / "closed-loop" / f"step-{now:07d}.json"
        path.unlink(missing_ok=True)  # of a step that was trained before an interruption, and is trained again
        report = evaluate_closed_loop(policy, settings, path)
        per_task = {f"success/{task}": row["success"] for task, row in report["tasks"].items()}
        return {"success": report["mean_success"]} | per_task

    return evaluate


def _unfilled(config: Config, device: str) -> XWAM:
    """A model whose weights are to come: nothing is drawn for them, and none lie in main memory."""
    with torch.device("meta"):
        model = XWAM(config.model)
    return model.to_empty(device=device_of(device))


def together(looks: Sequence[Validate]) -> Validate:
    """Several ways to look at a run, as one."""

    def validate(average: dict[str, Tensor], now: int) -> dict[str, float]:
        return {name: value for look in looks for name, value in look(average, now).items()}

    return validate


def _encoded(clips: list, config: Config, robot: Robot, vae: VideoVae, prompts: Prompts, device: str) -> Batch:
    """Held-out clips, centre-cropped, as a training batch."""
    pixels = encode_clips([centre_crop(clip, crop=config.clip.crop) for clip in clips], robot.normalizer)
    with torch.no_grad():
        video, depth = (encode_views(vae.encode, images.to(device)) for images in (pixels.video, pixels.depth))
    prompt = torch.stack([prompts[clip.instruction] for clip in clips])
    encoded = pixels._replace(video=video, depth=depth)
    return Batch(**{name: x.to(device) for name, x in encoded._asdict().items()}, prompt=prompt.to(device))


@torch.no_grad()
def write_first_batch(path: Path, batch: Batch, vae: VideoVae) -> None:
    """What the network really sees, decoded: a row per clip; for each view its first and last frame, and last depth.

    ``vae`` lies where ``batch`` does. Needs Pillow (``pip install 'xwam[train]'``).
    """
    video, depth = (tensor_to_video(decode_views(vae.decode, latents[:4])) for latents in (batch.video, batch.depth))
    rows = [
        np.concatenate([tile for v, d in zip(clip, clip_depth, strict=True) for tile in (v[0], v[-1], d[-1])], axis=1)
        for clip, clip_depth in zip(video, depth, strict=True)
    ]
    missing = "pictures of the first batch need Pillow: pip install 'xwam[train]'"
    png = encoded(np.concatenate(rows, axis=0), "PNG", missing=missing)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)
