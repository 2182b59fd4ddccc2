"""The command line: one verb, one function. Nothing heavy is imported until a verb runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

Positional = tyro.conf.Positional


def demo(
    task: str = "button-press-topdown-v3",
    episodes: int = 3,
    seed: int = 0,
    out: Path = Path("runs/demo"),
    checkpoint: Path = Path("checkpoints/tiny"),
) -> None:
    """Act and imagine in Meta-World with the shipped checkpoint; writes report.html, result.json and an mp4."""
    from xwam.demo import run_demo

    result = run_demo(task=task, num_episodes=episodes, seed=seed, out=out, checkpoint=checkpoint)
    print(f"{sum(result['success'])} of {episodes} episodes solved. Open {out / 'report.html'} in a browser.")


def collect(
    simulator: Annotated[Literal["metaworld"], Positional] = "metaworld",
    tasks: tuple[str, ...] = ("button-press-topdown-v3",),
    episodes: int = 50,
    out: Path = Path("runs/data"),
    seed: int = 0,
    noise: float = 0.3,
    workers: int = 2,
    size_px: int = 128,
) -> None:
    """Record scripted experts as a LeRobot v3 data set. Interrupt and repeat at will: it continues.

    Args:
        simulator: metaworld.
        tasks: names of tasks.
        episodes: episodes per task in the end.
        out: folder of the data set.
        seed: first placement.
        noise: how strongly executed actions are disturbed (the clean action is what is stored).
        workers: processes.
        size_px: height and width of the images.
    """
    from xwam.sim.collect import collect as run

    run(out, tasks, episodes, seed=seed, noise=noise, num_workers=workers, width_px=size_px, height_px=size_px)


def stats(data: Annotated[Path, Positional], out: Path | None = None, processes: int = 2) -> None:
    """Derive the normaliser's statistics from a data set, as training does: from the episodes that are not held out.

    Args:
        data: a LeRobot data set.
        out: file to write; by default meta/normalizer.json in the data set.
        processes: how many read the data at the same time.
    """
    from xwam.data.clips import split_episodes
    from xwam.data.lerobot import open_lerobot
    from xwam.data.stats import normalizer_from

    episodes = open_lerobot(data)
    training, _ = split_episodes(episodes.num_episodes)
    normalizer = normalizer_from(episodes, only=training, num_processes=processes, progress=True)
    path = out or data / "meta" / "normalizer.json"
    normalizer.save(path)
    print(f"{path} (fingerprint {normalizer.fingerprint()})")


def train(
    preset: Annotated[str, Positional],
    data: Path,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    action_loss_weight: float | None = None,
    vae_steps: int = 1800,
    every: int = 4,
    variants: int = 1,
    start: Path | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "cpu",
) -> None:
    """From a data set to a checkpoint: VAE and text encoder (once), latent cache, then the transformer.

    Args:
        preset: debug, tiny, small, …
        data: a LeRobot data set.
        out: folder of the run; a run that is there already is continued exactly.
        minutes: stop (and save) the transformer's training after this long.
        steps: instead of the preset's number of steps.
        batch_size: instead of the preset's.
        action_loss_weight: instead of the preset's.
        vae_steps: how long to train the VAE when the run has none yet.
        every: a clip starts at every n-th step of an episode.
        variants: random crops and colourings of each clip.
        start: a checkpoint to fine-tune instead of starting from nothing.
        precision: of matrix products; bfloat16 is about three times faster on CPUs that have it.
        device: cpu, cuda, cuda:1, …
    """
    from dataclasses import replace

    from xwam.train.pipeline import run_pipeline
    from xwam.train.vae import TINY_VAE

    given = {"num_steps": steps, "batch_size": batch_size, "action_loss_weight": action_loss_weight}
    run_pipeline(
        preset,
        data,
        out,
        {name: value for name, value in given.items() if value is not None},
        vae=replace(TINY_VAE, num_steps=vae_steps),
        every=every,
        num_variants=variants,
        minutes=minutes,
        start=start,
        precision=precision,
        device=device,
    )


def convert(
    kind: Annotated[Literal["run", "release", "wan"], Positional],
    source: Annotated[Path, Positional],
    target: Annotated[Path, Positional],
    dry_run: bool = False,
    robot: Literal["robocasa", "robotwin"] | None = None,
    statistics: Path | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Make a checkpoint folder from a training run, the published weights or Wan2.2's own. Repeat to continue.

    Args:
        kind: run: a step-… folder, to be shipped (bf16 weights, no optimiser); release: published weights
            (mp_rank_00_model_states.pt); wan: the original Wan2.2-TI2V-5B folder, to start training from.
        source: the folder.
        target: the folder to write.
        dry_run: check names, shapes and free disk, write nothing.
        robot: whose layout (release); by default as the statistics say.
        statistics: YAML or JSON with q01 and q99 (release); by default the config.yaml near the checkpoint.
        tokenizer: the folder google/umt5-xxl, where it is not beside the source.
    """
    if kind == "run":
        from xwam.train.checkpoint import export_policy

        if dry_run:
            raise ValueError("dry_run=True: only for release and wan; leave it out.")
        export_policy(source, target)
        print(f"{target}: {sum(f.stat().st_size for f in target.rglob('*') if f.is_file()) / 1e6:.1f} MB")
        return
    from xwam import convert as published

    if kind == "release":
        plan = published.plan_release(source, robot=robot, statistics=statistics, tokenizer=tokenizer)
    else:
        plan = published.plan_wan(source, tokenizer=tokenizer)
    print(published.convert(plan, target, dry_run=dry_run))


def evaluate(
    checkpoint: Annotated[Path, Positional],
    env: str | None = None,
    data: Path | None = None,
    tasks: tuple[str, ...] = (),
    episodes: int = 10,
    seed: int = 0,
    out: Path = Path("runs/evaluation.json"),
    replan_every: int = 16,
    max_steps: int = 100,
    envs: int = 2,
    blind: bool = False,
    random: bool = False,
    clips: int = 32,
    device: str = "cpu",
) -> None:
    """Closed loop with ``--env metaworld --tasks …``; open loop on held-out clips with ``--data DIR``.

    Args:
        checkpoint: a checkpoint folder.
        env: metaworld: play episodes and count successes.
        data: a data set: compare imagined and real clips of held-out episodes.
        tasks: names of tasks.
        episodes: episodes per task.
        seed: which unseen placements.
        out: where the numbers go; repeat the command to continue an interrupted evaluation.
        replan_every: actions played of each chunk before the next decision.
        max_steps: actions per episode.
        envs: simulators in parallel.
        blind: baseline that sees grey images.
        random: baseline that draws actions at random.
        clips: held-out clips for the open loop.
        device: cpu, cuda, …
    """
    from xwam.policy import load_policy

    if (env is None) == (data is None):
        raise ValueError(f"env={env}, data={data}: give --env metaworld (closed loop) or --data DIR (open loop).")
    policy = load_policy(checkpoint, device=device)
    if data is not None:
        from xwam.evaluate.open_loop import evaluate_open_loop

        report = evaluate_open_loop(policy, data, num_clips=clips, seed=seed, out=out)
    else:
        from xwam.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop

        config = ClosedLoopConfig(
            tasks=tasks or ("button-press-topdown-v3",),
            num_episodes=episodes,
            seed=seed,
            replan_every=replan_every,
            max_steps=max_steps,
            num_envs=envs,
            is_blind=blind,
            is_random=random,
        )
        report = evaluate_closed_loop(policy, config, out)
    print("\n".join(f"{k}: {v}" for k, v in report.items() if k not in ("episodes", "settings")))


def imagine(
    checkpoint: Annotated[Path, Positional],
    data: Path,
    episode: int = 0,
    frame: int = 0,
    seed: int = 0,
    out: Path = Path("runs/imagined"),
    device: str = "cpu",
) -> None:
    """Imagine what follows one frame of a data set; writes the 4D page, mosaic, arrays and point clouds."""
    from xwam.imagine import imagine_clip

    imagine_clip(checkpoint, data, out, episode=episode, frame=frame, seed=seed, device=device)
    print(out / "world.html")


def view(prediction: Annotated[Path, Positional], out: Path = Path("runs/viewed")) -> None:
    """Make the 4D page, mosaic and point clouds of a saved prediction (``.npz``)."""
    from xwam.imagine import view_saved

    view_saved(prediction, out)
    print(out / "world.html")


def check(what: Annotated[Literal["golden", "memory"], Positional], target: Annotated[str, Positional]) -> None:
    """``golden DIR``: recompute recorded numbers of the published model; ``memory PRESET``: what it needs.

    Args:
        what: golden (exit code 1 when any number differs), memory.
        target: a folder of golden files; the name of a preset.
    """
    if what == "golden":
        return _check_golden(target)
    from xwam.evaluate.memory import markdown
    from xwam.presets import preset

    return print(markdown(preset(target)))


def _check_golden(folder: str) -> None:
    from xwam.evaluate.golden import check_golden

    failed = total = 0
    for case in check_golden(Path(folder)):
        total += 1
        failed += case.verdict == "FAIL"
        note = f" (bound {case.bound:.0e}): {case.note}" if case.verdict == "FAIL" else ""
        print(f"{case.name:<56} {case.error:8.1e}  {case.verdict}{note}", flush=True)
    print(f"{total} cases, {failed} FAIL")
    if failed:
        raise SystemExit(1)


VERBS = {
    "demo": demo,
    "collect": collect,
    "stats": stats,
    "train": train,
    "evaluate": evaluate,
    "imagine": imagine,
    "view": view,
    "convert": convert,
    "check": check,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``xwam`` command. User mistakes end in one line and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(VERBS, prog="xwam", description=__doc__, args=arguments)
    except (ValueError, FileNotFoundError) as error:
        print(f"xwam: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("xwam: interrupted; everything finished is kept. Repeat the command to continue.", file=sys.stderr)
        raise SystemExit(130) from None
