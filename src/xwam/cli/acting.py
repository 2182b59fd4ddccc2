"""Verbs that use a policy: demo, evaluate, imagine, view."""

import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from xwam.cli.options import ClosedLoop, OpenLoop, Steps, torch_dtype
from xwam.config import Dtype, Imagining, Simulator

if TYPE_CHECKING:
    from xwam.policy import Policy
    from xwam.robot.robot_json import RobotConfig


def demo(
    task: str = "button-press-topdown-v3",
    episodes: int = 3,
    seed: int = 0,
    out: Path = Path("runs/demo"),
    checkpoint: Path = Path("checkpoints/tiny"),
) -> None:
    """Act and imagine in Meta-World with the shipped checkpoint; writes report.html, result.json and an mp4.

    Args:
        task: a task of Meta-World; the shipped checkpoint knows six.
        episodes: episodes to play.
        seed: which unseen placements.
        out: folder for the results.
        checkpoint: a checkpoint folder.
    """
    from xwam.demo import run_demo

    result = run_demo(task=task, num_episodes=episodes, seed=seed, out=out, checkpoint=checkpoint)
    print(f"{sum(result['success'])} of {episodes} episodes solved. Open {out / 'report.html'} in a browser.")


NOT_PRINTED = ("episodes", "others", "clips", "settings", "per_step", "standard_error")  # of what an evaluation writes


def evaluate(
    checkpoint: Annotated[Path, Positional],
    env: Simulator | None = None,
    data: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
    closed_loop: Annotated[ClosedLoop, arg(name="")] = ClosedLoop(),  # noqa: B008 (frozen)
    open_loop: Annotated[OpenLoop, arg(name="")] = OpenLoop(),  # noqa: B008 (frozen)
    report: bool = True,
    robot: str | None = None,
    steps: Annotated[Steps, arg(name="")] = Steps(),  # noqa: B008 (frozen)
    precision: Dtype = "float32",
    device: str = "cpu",
) -> None:
    """Closed loop with ``--env SIMULATOR --tasks …``; open loop on held-out clips with ``--data DIR``.

    Args:
        checkpoint: a checkpoint folder.
        env: metaworld or robosuite: play episodes and count successes.
        data: a data set: compare imagined and real clips of held-out episodes.
        seed: which unseen placements, or which clips.
        out: the numbers (JSON), with the report (HTML) beside them; repeat the command to continue. By default
            runs/evaluation/closed.json, or open.json; where that holds results of other settings, closed-2.json, …
        closed_loop: how episodes are played.
        open_loop: how to compare clips.
        report: write the page with plots and with the best, median and worst episode in 4D.
        robot: one of the checkpoint's robots, where it has several; its robot.json explains the data set.
        steps: denoising steps of an answer.
        precision: of the weights of transformer and decoder; other results than float32, in a file of their own.
        device: cpu, cuda, …
    """
    from xwam.data.opening import robot_for
    from xwam.evaluate.results_file import first_free, writing
    from xwam.model.device import warn_of_idle_gpu
    from xwam.policy import load_policy

    _check_way(env, data, open_loop, closed_loop)
    warn_of_idle_gpu(device)
    policy = load_policy(checkpoint, device=device, dtype=torch_dtype(precision), robot=robot, **vars(steps))
    if data is not None:
        _warn_of_known_clips(checkpoint)
        explained = robot_for(checkpoint, robot, data)

        def run(path: Path) -> dict[str, Any]:
            return _compare(policy, data, open_loop, path, seed=seed, has_report=report, robot=explained)

    else:
        assert env is not None

        def run(path: Path) -> dict[str, Any]:
            return _play(policy, env, closed_loop, path, seed=seed, has_report=report)

    if out is None:
        out, numbers = first_free("closed" if data is None else "open", run)
    else:
        with writing(out):
            numbers = run(out)
    print(f"numbers: {out}")
    print("\n".join(f"{k}: {v}" for k, v in numbers.items() if k not in NOT_PRINTED))
    if report and not closed_loop.random:
        print(f"Open {out.with_suffix('.html')} in a browser.")


def _warn_of_known_clips(checkpoint: Path) -> None:
    """Which data a checkpoint was trained on only its manifest says; not which of them it is asked about now."""
    path = checkpoint / "manifest.json"
    if path.is_file() and json.loads(path.read_text()).get("train_on_all"):
        warnings.warn(
            f"checkpoint={checkpoint} was trained with --train-on-all: of its own data it has seen every clip, the "
            "held-out ones too; record others to know how it does on what is new.",
            stacklevel=2,
        )


def _check_way(env: Simulator | None, data: Path | None, open_loop: OpenLoop, closed_loop: ClosedLoop) -> None:
    """Either closed or open loop, and no option of the other."""
    if (env is None) == (data is None):
        raise ValueError(f"env={env}, data={data}: give --env SIMULATOR (closed loop) or --data DIR (open loop).")
    if data is None and open_loop != OpenLoop():
        raise ValueError("--clips, --mode, --region and --depth-teacher compare recorded clips: they need --data DIR.")
    if data is not None and closed_loop != ClosedLoop():
        names = ", ".join("--" + field.name.replace("_", "-") for field in fields(ClosedLoop))
        raise ValueError(f"{names} play episodes: they need --env.")


def _compare(
    policy: "Policy",
    data: Path,
    how: OpenLoop,
    out: Path,
    *,
    seed: int,
    has_report: bool,
    robot: "RobotConfig | None",
) -> dict[str, Any]:
    from xwam.evaluate.geometry_metrics import box
    from xwam.evaluate.open_loop import evaluate_open_loop
    from xwam.model.depth_teacher import MonocularDepth

    device = str(policy.device)
    teacher = None if how.depth_teacher is None else MonocularDepth(how.depth_teacher, device=device)
    where = None if how.region is None else box(how.region)
    numbers = evaluate_open_loop(
        policy,
        data,
        num_clips=how.clips,
        seed=seed,
        out=out,
        mode=how.mode,
        region=where,
        teacher=teacher,
        has_report=has_report,
        robot=robot,
    )
    print("\n".join(f"{k}: {v}" for k, v in numbers["settings"].items()))
    return numbers


def _play(
    policy: "Policy", simulator: Simulator, how: ClosedLoop, out: Path, *, seed: int, has_report: bool
) -> dict[str, Any]:
    from xwam.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop
    from xwam.evaluate.closed_report import write_closed_report
    from xwam.sim.simulators import simulator_named

    its_own = simulator_named(simulator)
    config = ClosedLoopConfig(
        simulator=simulator,
        tasks=how.tasks or (its_own.first_task,),
        num_episodes=how.episodes,
        seed=seed,
        replan_every=how.replan_every,
        max_steps=its_own.max_steps if how.max_steps is None else how.max_steps,
        num_envs=how.processes,
        is_blind=how.blind,
        is_random=how.random,
    )
    numbers = evaluate_closed_loop(policy, config, out)
    if has_report and not config.is_random:  # random actions come without an imagined world
        write_closed_report(out.with_suffix(".html"), policy, config, numbers, its_own.make_env)
    return numbers


def imagine(
    checkpoint: Annotated[Path, Positional],
    input: Path | None = None,
    data: Path | None = None,
    episode: int = 0,
    frame: int = 0,
    mode: Imagining = "joint",
    seed: int = 0,
    out: Path = Path("runs/imagined"),
    rerun: bool = False,
    robot: str | None = None,
    steps: Annotated[Steps, arg(name="")] = Steps(),  # noqa: B008 (frozen)
    precision: Dtype = "float32",
    device: str = "cpu",
) -> None:
    """Imagine what follows one observation; writes the 4D page, mosaic, arrays and point clouds.

    Args:
        checkpoint: a checkpoint folder.
        input: an observation saved by xwam.data.observations.save_observation (.npz).
        data: a data set instead: what really happened is then shown as well.
        episode: which episode of the data set.
        frame: from which of its steps.
        mode: joint: it imagines its own actions; forward_dynamics: it is told those of the data set.
        seed: another seed, another imagination.
        out: folder for the results.
        rerun: also write world.rrd for rerun's viewer (needs the extra rerun).
        robot: one of the checkpoint's robots, where it has several; its robot.json explains the data set.
        steps: denoising steps of an answer.
        precision: of the weights of transformer and decoder.
        device: cpu, cuda, …
    """
    from xwam.data.observations import load_observation
    from xwam.data.opening import robot_for
    from xwam.imagine import imagine_observation, imagine_recording
    from xwam.policy import load_policy

    if (input is None) == (data is None):
        raise ValueError(f"input={input}, data={data}: give --input OBSERVATION.npz, or --data DIR --episode --frame.")
    if input is not None and mode != "joint":
        raise ValueError(f"mode={mode}: an observation comes without actions; give --data DIR --episode --frame.")
    if input is not None and (episode or frame):
        raise ValueError(f"episode={episode}, frame={frame}: they are of a data set; leave them out with --input.")
    observation = None if input is None else load_observation(input)  # a wrong file fails before the weights are read
    policy = load_policy(checkpoint, device=device, dtype=torch_dtype(precision), robot=robot, **vars(steps))
    asked: dict[str, Any] = {"seed": seed, "has_rerun": rerun}
    if observation is not None:
        print(imagine_observation(policy, observation, out, **asked))
        return
    assert data is not None
    asked |= {"episode": episode, "frame": frame, "mode": mode, "robot": robot_for(checkpoint, robot, data)}
    print(imagine_recording(policy, data, out, **asked))


def view(prediction: Annotated[Path, Positional], out: Path = Path("runs/viewed"), rerun: bool = False) -> None:
    """Make the 4D page, mosaic and point clouds of a saved prediction.

    Args:
        prediction: the file, world.npz of ``imagine``.
        out: folder for the results.
        rerun: also write world.rrd for rerun's viewer (needs the extra rerun).
    """
    from xwam.imagine import view_saved

    print(view_saved(prediction, out, has_rerun=rerun))
