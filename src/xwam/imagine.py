"""Imagine one observation and write everything a person or a program may want of it.

``world.html`` is the 4D page, ``world.mp4`` the mosaic, ``world.npz`` holds all arrays (view/export.py documents the
schema), ``world.glb`` the clouds over time, ``points-00.ply`` and so on one cloud per step; where asked for,
``world.rrd`` is a recording for rerun. What an earlier world left under these names goes.
"""

import warnings
from pathlib import Path

from xwam.config import Imagining
from xwam.data.clips import Clips
from xwam.data.opening import open_data
from xwam.evaluate.clips import check_same_robot, imagine_clip
from xwam.policy import Policy
from xwam.records import Observation, Prediction
from xwam.robot.layout import Layout
from xwam.robot.robot_json import RobotConfig
from xwam.view.export import load_prediction, save_prediction, write_glb, write_ply
from xwam.view.html import write_page
from xwam.view.mosaic import write_mosaic
from xwam.view.points import fuse, has_points
from xwam.view.rerun_log import write_rerun

PAGES = ("world.mp4", "world.html", "world.glb", "world.rrd", "points-[0-9]*.ply")  # beside the arrays


def imagine_recording(
    policy: Policy,
    data: Path,
    out: Path,
    *,
    episode: int,
    frame: int,
    seed: int,
    robot: RobotConfig | None = None,
    mode: Imagining = "joint",
    has_rerun: bool = False,
) -> Path:
    """Imagine what follows step ``frame`` of an episode, beside what really followed. ``robot`` explains foreign data.

    ``mode="forward_dynamics"``: the world that the recorded actions lead to. Raises ValueError where there is no such
    step, or the data are of another robot.
    """
    clips = Clips(
        open_data(data, robot=robot), policy.config.clip, policy.config.view_names,
        split="all", validation_share=0.0, absent=policy.absent,
    )  # fmt: skip
    check_same_robot(policy, clips.episodes)
    if not 0 <= episode < clips.episodes.num_episodes:
        raise ValueError(f"episode={episode}: the data set has episodes 0..{clips.episodes.num_episodes - 1}.")
    clip = clips.at(episode, frame)
    if mode == "forward_dynamics" and not clip.state_mask.all():
        raise ValueError(f"frame={frame}: the episode ends within its {len(clip.action)} actions; begin earlier.")
    imagined, real = imagine_clip(policy, clip, seed=seed, mode=mode)
    return write_world(out, imagined, policy.layout, real=real, has_rerun=has_rerun)


def imagine_observation(
    policy: Policy, observation: Observation, out: Path, *, seed: int, has_rerun: bool = False
) -> Path:
    """Imagine what follows an observation, say one that was saved as a file (data/observations.py)."""
    *_, imagined = policy.predict(observation, seed=seed)
    return write_world(out, imagined.without_views(policy.absent), policy.layout, has_rerun=has_rerun)


def view_saved(prediction: Path, out: Path, *, has_rerun: bool = False) -> Path:
    """Make the pages of a prediction that was saved as ``.npz``."""
    saved = load_prediction(prediction)
    return write_world(out, saved.prediction, saved.layout, real=saved.real, has_rerun=has_rerun)


def write_world(
    out: Path, imagined: Prediction, layout: Layout, *, real: Prediction | None = None, has_rerun: bool = False
) -> Path:
    """Write the arrays, the mosaic, the page and the clouds (and rerun's recording); returns what to open.

    Page and clouds need depth and a calibrated camera; a warning says so where there is none.
    """
    out.mkdir(parents=True, exist_ok=True)
    save_prediction(out / "world.npz", imagined, layout, real=real)
    for old in [path for pattern in PAGES for path in out.glob(pattern)]:
        old.unlink()
    write_mosaic(out / "world.mp4", imagined, real=real)
    names = ", ".join(camera.name for camera in imagined.cameras)
    if not has_points(imagined, layout):
        why = _why_flat(imagined) + ("; so no world.rrd either" if has_rerun else "")
        warnings.warn(
            f"cameras={names}: no page and no point clouds without depth and a calibrated camera; {why}.", stacklevel=2
        )
        return out / "world.mp4"
    clouds = [fuse(imagined, layout, step) for step in range(len(imagined.state))]
    if all(len(cloud.points) for cloud in clouds):
        write_glb(out / "world.glb", clouds, imagined.frame_hz)
    else:
        warnings.warn(f"cameras={names}: no world.glb, since some moments have no points.", stacklevel=2)
    for step, cloud in enumerate(clouds):
        write_ply(out / f"points-{step:02d}.ply", cloud)
    in_space = None if real is None or real.depth is None else real
    if has_rerun:
        write_rerun(out / "world.rrd", imagined, layout, real=in_space)
    write_page(out / "world.html", imagined, layout, real=in_space, title=imagined.instruction)  # last: needs viser
    return out / "world.html"


def _why_flat(imagined: Prediction) -> str:
    """Why a world without points has none."""
    if imagined.depth is None:
        return "this world has no depth"
    if any(camera.is_calibrated for camera in imagined.cameras):
        return "no depth is known"
    return "give the observation calibrated cameras"
