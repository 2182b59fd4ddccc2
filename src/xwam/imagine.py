"""Imagine one observation and write everything a person or a program may want of it.

``world.html`` is the 4D page, ``world.mp4`` the mosaic, ``world.npz`` holds all arrays (view/export.py documents the
schema), ``world.glb`` the clouds over time, ``points-00.ply`` and so on one cloud per step; where asked for,
``world.rrd`` is a recording for rerun.
"""

from pathlib import Path

from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.data.observations import load_observation
from xwam.evaluate.open_loop import observation_of, reality
from xwam.policy import load_policy
from xwam.records import Prediction
from xwam.robot.layout import Layout
from xwam.view.export import load_prediction, save_prediction, write_glb, write_ply
from xwam.view.html import write_page
from xwam.view.mosaic import write_mosaic
from xwam.view.points import fuse
from xwam.view.rerun_log import write_rerun


def imagine_clip(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    episode: int,
    frame: int,
    seed: int,
    device: str = "cpu",
    has_rerun: bool = False,
) -> None:
    """Imagine what follows step ``frame`` of an episode, beside what really followed."""
    policy = load_policy(checkpoint, device=device)
    clips = Clips(open_lerobot(data), policy.config.clip, policy.config.view_names, split="all", validation_share=0.0)
    if not 0 <= episode < clips.episodes.num_episodes:
        raise ValueError(f"episode={episode}: the data set has episodes 0..{clips.episodes.num_episodes - 1}.")
    clip = clips.at(episode, frame)
    *_, imagined = policy.predict(observation_of(clip), seed=seed)
    write_world(
        out, imagined, policy.layout, real=reality(clip, imagined, policy.config.clip.crop), has_rerun=has_rerun
    )


def imagine_saved(
    checkpoint: Path, seen: Path, out: Path, *, seed: int, device: str = "cpu", has_rerun: bool = False
) -> None:
    """Imagine what follows an observation that was saved as a file (data/observations.py)."""
    observation = load_observation(seen)  # a wrong file fails here, before anything heavy is loaded
    policy = load_policy(checkpoint, device=device)
    *_, imagined = policy.predict(observation, seed=seed)
    write_world(out, imagined, policy.layout, has_rerun=has_rerun)


def view_saved(prediction: Path, out: Path, *, has_rerun: bool = False) -> None:
    """Make the pages of a prediction that was saved as ``.npz``."""
    saved = load_prediction(prediction)
    write_world(out, saved.prediction, saved.layout, real=saved.real, has_rerun=has_rerun)


def write_world(
    out: Path, imagined: Prediction, layout: Layout, *, real: Prediction | None = None, has_rerun: bool = False
) -> None:
    """Write the page, the mosaic, the arrays and the clouds (and rerun's recording) into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "world.html", imagined, layout, real=real, title=imagined.instruction)
    write_mosaic(out / "world.mp4", imagined, real=real)
    save_prediction(out / "world.npz", imagined, layout, real=real)
    clouds = [fuse(imagined, layout, step) for step in range(len(imagined.state))]
    write_glb(out / "world.glb", clouds, imagined.frame_hz)
    for step, cloud in enumerate(clouds):
        write_ply(out / f"points-{step:02d}.ply", cloud)
    if has_rerun:
        write_rerun(out / "world.rrd", imagined, layout, real=real)
