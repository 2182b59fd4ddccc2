"""Verbs that make checkpoints: train, train-vae, convert."""

import os
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from xwam.train.options import Changes, Precision, Setup, Sources, VaeChanges, Watch


def train(
    preset: Annotated[str, Positional],
    data: tuple[Path, ...],
    out: Path,
    sources: Annotated[Sources, arg(name="")] = Sources(),  # noqa: B008 (frozen)
    minutes: float | None = None,
    changes: Annotated[Changes, arg(name="")] = Changes(),  # noqa: B008 (frozen)
    how: Annotated[Setup, arg(name="")] = Setup(),  # noqa: B008 (frozen)
    watch: Annotated[Watch, arg(name="")] = Watch(),  # noqa: B008 (frozen)
    vae_steps: int = 5200,
    start: Path | None = None,
    plan: bool = False,
    processes: int | None = None,
    device: str = "cpu",
) -> None:
    """From a data set to a checkpoint: VAE and text encoder (once), latent cache, then the transformer.

    ``torchrun --nproc-per-node 8 --no-python -- xwam train …`` uses 8 processes; the batch is that of all together.

    Args:
        preset: debug, mini, tiny, small, bench_small, wan22_5b.
        data: data sets, one or several (LeRobot's format, HDF5 files, or the published X-WAM ones).
        sources: what they mean, and how they are mixed and encoded.
        out: folder of the run; a run that is there already is continued exactly, by any number of processes.
        minutes: stop (and save) the transformer's training after this long.
        changes: numbers of the recipe.
        how: memory and speed.
        watch: what is looked at on the way.
        vae_steps: how long to train the VAE when the run has none yet.
        start: a checkpoint to fine-tune instead of starting from nothing.
        plan: print the memory that training would take, and end; data that are not there yet count as the preset says.
        processes: for --plan, how many processes (GPUs) there will be; by default as torchrun says.
        device: cpu, cuda, cuda:1, …
    """
    if processes is not None and not plan:
        raise ValueError(f"processes={processes}: only for --plan; to train in several processes use torchrun (above).")
    if plan:
        print(_plan(preset, data, sources, start, changes, how, processes, device))
        return
    from dataclasses import replace

    from xwam.train.pipeline import run_pipeline
    from xwam.train.vae_recipe import TINY_VAE

    run_pipeline(
        preset,
        data,
        out,
        changes.given(),
        vae=replace(TINY_VAE, num_steps=vae_steps),
        sources=sources,
        minutes=minutes,
        start=start,
        how=how,
        watch=watch,
        device=device,
    )


def _plan(
    name: str,
    data: tuple[Path, ...],
    sources: Sources,
    start: Path | None,
    changes: Changes,
    how: Setup,
    processes: int | None,
    device: str,
) -> str:
    from xwam.presets import preset
    from xwam.train.adapt import with_frozen_of, with_known_depth
    from xwam.train.options import changed
    from xwam.train.plan import markdown
    from xwam.train.sources import fit, open_sources

    config = changed(preset(name), changes.given())
    config = config if start is None else with_frozen_of(start, config)
    if all(folder.exists() for folder in data):
        opened = open_sources(list(data), sources.robot, sources.weights)
        config = with_known_depth(fit(config, opened), opened, start)
    return markdown(config, how, processes or int(os.environ.get("WORLD_SIZE", "1")), device)


def train_vae(
    preset: Annotated[str, Positional],
    data: tuple[Path, ...],
    out: Path,
    robot: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
    start: Path | None = None,
    decoder_only: bool = False,
    imagined: int = 0,
    changes: Annotated[VaeChanges, arg(name="")] = VaeChanges(),  # noqa: B008 (frozen)
    episodes: int | None = None,
    precision: Precision = "auto",
    minutes: float | None = None,
    device: str = "cpu",
) -> None:
    """The autoencoder alone, into the folder vae of ``out``; repeat to continue.

    With ``out`` the folder ``frozen`` of a run to come, ``xwam train`` takes it from there.

    Args:
        preset: debug, tiny, small, …; its sizes, where there is no start.
        data: data sets, one or several (LeRobot's format, HDF5 files, or the published X-WAM ones).
        out: folder to write.
        robot: what their numbers mean, as in train.
        weights: shares of the data sets; equal parts without.
        start: a checkpoint whose autoencoder goes on learning, instead of a new one.
        decoder_only: the encoder stays, and with it all latents: the new vae fits the checkpoint of ``start`` as it is.
        imagined: the decoder alone, on so many clips as the transformer of ``start`` imagines them (2.4 MB each).
        changes: numbers of the recipe.
        episodes: how many to keep in memory (82 kB per frame and camera, colour and depth, at 128 px); by default 140,
            or fewer where they need more than 8 GB.
        precision: of matrix products.
        minutes: stop (and save) after this long; there is no vae before all steps are done.
        device: cpu, cuda, cuda:1, …
    """
    from xwam.presets import preset as preset_named
    from xwam.train.sources import fit, open_sources
    from xwam.train.vae_alone import train_vae_alone, with_vae_of
    from xwam.train.vae_recipe import TINY_VAE, changed_recipe

    opened = open_sources(list(data), robot, weights)
    made = train_vae_alone(
        fit(preset_named(preset) if start is None else with_vae_of(start, preset_named(preset)), opened),
        opened,
        out,
        changed_recipe(TINY_VAE, changes),
        start=start,
        decoder_only=decoder_only,
        num_imagined=imagined,
        num_episodes=episodes,
        precision=precision,
        max_minutes=minutes,
        device=device,
    )
    print(made if made.name == "vae" else f"{made}: not finished; repeat the command to go on")


def convert(
    kind: Annotated[Literal["run", "adapter", "state", "release", "wan"], Positional],
    source: Annotated[Path, Positional],
    target: Annotated[Path, Positional],
    dry_run: bool = False,
    robot: Literal["robocasa", "robotwin"] | None = None,
    statistics: Path | None = None,
    tokenizer: Path | None = None,
    base: Path | None = None,
) -> None:
    """Make a checkpoint folder from a training run, the published weights or Wan2.2's own. Repeat to continue.

    Args:
        kind: run: a step-… folder or an adapter, to be shipped (bf16 weights, adapters merged, no optimiser);
            adapter: what LoRA learned alone, with a reference to its base; state: with optimiser, in plain files;
            release: published weights (mp_rank_00_model_states.pt); wan: the original Wan2.2-TI2V-5B folder, to
            start training from.
        source: the folder.
        target: the folder to write.
        dry_run: check names, shapes and free disk, write nothing.
        robot: whose layout (release); by default as the statistics say.
        statistics: YAML or JSON with q01 and q99 (release); by default the config.yaml near the checkpoint.
        tokenizer: the folder google/umt5-xxl, where it is not beside the source.
        base: where the checkpoint lies that an adapter was trained on, if it was moved.
    """
    published_takes = {"dry_run", "robot", "statistics", "tokenizer"}
    takes = {"run": {"base"}, "release": published_takes, "wan": {"dry_run", "tokenizer"}}
    given = {"dry_run": dry_run, "robot": robot, "statistics": statistics, "tokenizer": tokenizer, "base": base}
    for name, value in given.items():
        if value and name not in takes.get(kind, set()):
            kinds = ", ".join(kind for kind, names in takes.items() if name in names)
            raise ValueError(f"{name}={value}: only for {kinds}; leave it out.")
    if kind in ("run", "adapter", "state"):
        from xwam.train import export

        if kind == "run":
            export.export_policy(source, target, base=base)
        elif kind == "adapter":
            export.export_adapter(source, target)
        else:
            export.export_state(source, target)
        print(f"{target}: {sum(f.stat().st_size for f in target.rglob('*') if f.is_file()) / 1e6:.1f} MB")
        return
    from xwam import convert as published

    if kind == "release":
        plan = published.plan_release(source, robot=robot, statistics=statistics, tokenizer=tokenizer)
    else:
        plan = published.plan_wan(source, tokenizer=tokenizer)
    print(published.convert(plan, target, dry_run=dry_run))
