"""What a run cannot be is said in its first second, not after an autoencoder was trained or clips were encoded."""

import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from xwam.config import Config
from xwam.data.recorded import RecordedEpisodes
from xwam.model.shards import weight_files
from xwam.model.text import TOKENIZER_FOLDER
from xwam.sim.simulators import check_robot, simulator_named
from xwam.strict_json import load
from xwam.train.options import Setup, Watch
from xwam.train.prepare import statistics_for, wordings_of
from xwam.train.sources import Source, clips_of
from xwam.train.text import check_told_apart, list_texts


def check_possible(
    config: Config,
    sources: Sequence[Source],
    how: Setup,
    watch: Watch,
    start: Path | None,
    *,
    frozen: Path,
    statistics_of: Path | None,
    device: torch.device,
) -> None:
    """Raise ValueError, FileNotFoundError or ImportError for what cannot be trained, watched or gone on from."""
    for source in sources:
        _warn_of_several_tasks(source)
    if how.lora_rank and start is None:
        raise ValueError(f"lora_rank={how.lora_rank}: adapters need weights to start from; give --start CHECKPOINT.")
    _check_installed(how, watch)
    if config.train.compile:
        _check_compiler(device)
    if start is not None:
        _check_whole(start)
    if statistics_of is not None:
        for source in sources:
            statistics_for(source, statistics_of)
    if config.text.tokenizer == "bytes":  # else it is given, not trained, and reads hundreds of tokens
        wordings = wordings_of(sources)
        check_told_apart(wordings, config)
        if start is None:
            list_texts(wordings)
    else:
        _check_tokenizer((frozen if start is None else start) / "text")
    if start is None:
        _check_frozen(config, frozen)
        _check_acts(config, sources)
    _check_watch(config, watch, sources[0])


def _warn_of_several_tasks(source: Source) -> None:
    if isinstance(source.episodes, RecordedEpisodes) and (several := source.episodes.with_several_tasks):
        warnings.warn(
            f"{source.name}: {len(several)} episodes have several tasks, such as {several[0]}: all of it gets the "
            "first one's words; cut such episodes into one per task.",
            stacklevel=4,
        )


def _check_acts(config: Config, sources: Sequence[Source]) -> None:
    """Who never learns an action must not be asked for one: a checkpoint says that it can act."""
    if config.noise.draw == "asynchronous" and config.noise.clean_action_ratio == 1:
        raise ValueError("clean_action_ratio=1: no sample would teach an action; give less than 1, or --start.")
    if not any(clips_of(source, config).num_demonstrations for source in sources):
        raise ValueError(
            f"data={', '.join(source.name for source in sources)}: no demonstration among the training episodes "
            "(wandering and failures teach no action); add some, or go on from a checkpoint that acts (--start)."
        )


def _check_tokenizer(text: Path) -> None:
    """A SentencePiece encoder is given, not trained: its files must lie there before anything else is made."""
    folder = text / TOKENIZER_FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder. This preset reads with a given text encoder and its tokenizer: start from a "
            "checkpoint that has both (`xwam convert … --tokenizer FOLDER`, --start), or use another preset."
        )


def _check_installed(how: Setup, watch: Watch) -> None:
    for is_wanted, asked, package, extra in (
        (how.lora_rank > 0, f"lora_rank={how.lora_rank}", "peft", "lora"),
        ("8bit" in how.optimizer, f"optimizer={how.optimizer}", "bitsandbytes", "lowmem"),
        (watch.wandb is not None, f"wandb={watch.wandb}", "wandb", "wandb"),
    ):
        if is_wanted and importlib.util.find_spec(package) is None:
            raise ImportError(f"{asked} needs {package}: pip install 'xwam[{extra}]'")


def _check_compiler(device: torch.device) -> None:
    """Compiled blocks are C++ on a CPU; on a GPU a little C stands around them. Both are looked for as torch does."""
    if device.type == "cuda":
        language, variable, names = "C", "CC", ("gcc", "clang")
    else:
        language, variable, names = "C++", "CXX", ("clang++",) if sys.platform == "darwin" else ("g++",)
    names = (os.environ[variable],) if variable in os.environ else names
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise FileNotFoundError(
            f"compile=True: {header} is not there, and what is compiled needs it; install it (`apt-get install -y "
            "python3-dev`), or train without (--no-compile): slower, the same numbers up to rounding."
        )
    if not any(shutil.which(name) for name in names):
        raise FileNotFoundError(
            f"compile=True: no {language} compiler ({' or '.join(names)}) is there; install one (`apt-get install -y "
            f"g++`), name it in {variable}, or train without (--no-compile): slower, the same numbers up to rounding."
        )


def _check_whole(start: Path) -> None:
    try:
        weight_files(start / "model.safetensors")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"start={start}: {error}") from error
    for part in ("vae", "text"):
        if not (start / part / "config.json").is_file():
            raise FileNotFoundError(
                f"start={start} has no {part}/config.json: training encodes pictures and words with what the start "
                "learned with; copy that folder back."
            )


def _check_frozen(config: Config, frozen: Path) -> None:
    """Parts that were made for another preset would be taken for this one's."""
    for name, wanted in (("vae", config.vae), ("text", config.text)):
        path = frozen / name / "config.json"
        if path.is_file() and (found := load(type(wanted), path)) != wanted:
            raise ValueError(
                f"{path} is of other sizes ({found}) than preset {config.name!r} wants ({wanted}): use another --out."
            )


def _check_watch(config: Config, watch: Watch, source: Source) -> None:
    """Tasks that the run's first robot cannot play, or that would never be played."""
    if not watch.evaluate_tasks:
        return
    cameras = {camera.name for camera in source.episodes.cameras}
    views = [name for name in config.view_names if name in cameras]
    hz, every = config.clip.action_hz, config.train.validate_every
    check_robot(watch.evaluate_simulator, watch.evaluate_tasks, source.episodes.layout, action_hz=hz, views=views)
    if not 1 <= every <= config.train.num_steps:
        raise ValueError(
            f"evaluate_tasks={watch.evaluate_tasks}: they are played at every validation, and validate_every={every} "
            f"of {config.train.num_steps} steps is never; give --validate-every."
        )
    _check_pictures(config, watch)


def _check_pictures(config: Config, watch: Watch) -> None:
    """Take one: a simulator may be installed without the OpenGL that draws. Raises what it says then."""
    size = {"width_px": config.clip.width_px, "height_px": config.clip.height_px}
    env = simulator_named(watch.evaluate_simulator).make_env(watch.evaluate_tasks[0], **size)
    env.reset(0)
    env.observe()
    env.close()
