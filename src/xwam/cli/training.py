"""Verbs that make checkpoints: train, convert."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional


def train(
    preset: Annotated[str, Positional],
    data: Path,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    action_loss_weight: float | None = None,
    vae_steps: int = 5200,
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
    from xwam.train.setup import Setup
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
        how=Setup(precision=precision),
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
        from xwam.train.export import export_policy

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
