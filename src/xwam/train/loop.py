"""The training loop, top to bottom: read a batch, step, average, log, validate, save.

Stops and resumes exactly: batches, noise and dropped prompts are functions of (seed, step), so a run that was
interrupted gives the same losses as one that was not. ``torchrun`` spreads the global batch over processes, and a run
goes on with any other number of them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from xwam.bench.training import samples_per_second_limit
from xwam.config import Config
from xwam.model.weights import save_weights
from xwam.model.xwam import XWAM
from xwam.tensors import Batch
from xwam.train import checkpoint, manifest, sharding, step
from xwam.train.descend import Losses, change_weights, check_gradient, compute_gradients, global_losses
from xwam.train.log import Log, Meter, open_log
from xwam.train.options import Setup
from xwam.train.peers import Peers, any_says, check_batch, join_peers, my_device
from xwam.train.precision import is_bfloat16
from xwam.train.rates import learning_rate_at
from xwam.train.saving import Saver, clear, load_state
from xwam.train.sources import shuffled
from xwam.train.state import averaged_weights, make_state
from xwam.train.stop import StopSign


@runtime_checkable
class TrainingData(Protocol):
    """Encoded clips: what the loop reads."""

    empty_prompt: Float[Tensor, "P Dt"]
    fingerprint: str

    @property
    def source_names(self) -> tuple[str, ...]:
        """Data sets of the mixture; losses are logged for each when there are several."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Int[np.ndarray, " B"], visit: int) -> Batch:
        """The clips of these indices; ``visit`` counts how often the data was gone through (picks the variant)."""
        ...

    def sources(self, indices: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Which data set (place in ``source_names``) each of these clips comes from."""
        ...


class Run(NamedTuple):
    """Where a run writes and what its checkpoints carry besides the weights."""

    out: Path
    robot: checkpoint.Robot
    frozen: Path  # a folder with vae/ and text/
    manifest: dict[str, Any]
    wandb_project: str | None = None


Validate = Callable[[dict[str, Tensor], int], dict[str, float]]
"""Called with the averaged weights and the step, on the main process alone; returns numbers to log.

What is due to be saved has its name by then: a validation that fails loses nothing.
"""


def batch_indices(
    size: int, batch_size: int, seed: int, at_step: int
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """The clips of one global batch, and the pass that each belongs to: shuffled passes over the data, end to end."""
    wanted = np.arange(at_step * batch_size, (at_step + 1) * batch_size)
    visits = wanted // size
    numbers = [shuffled(size, seed, p)[wanted[visits == p] % size] for p in np.unique(visits).tolist()]
    return np.concatenate(numbers), visits


def train(
    config: Config,
    data: TrainingData,
    run: Run,
    *,
    device: str = "cpu",
    start: Path | None = None,
    validate: Validate | None = None,
    how: Setup = Setup(),  # noqa: B008 (frozen)
    max_minutes: float | None = None,
) -> Path:
    """Train until ``num_steps`` (or ``max_minutes``) and return the last checkpoint's folder.

    ``start``: a checkpoint whose weights to start from (fine-tuning); fresh ones otherwise. Resumes from the newest
    checkpoint in ``run.out``. Ctrl-C and SIGTERM save first. Raises ValueError when that run had another recipe.
    """
    target = my_device(device)
    peers = join_peers(target)
    check_batch(config.train.batch_size, peers, how)
    newest = manifest.check_resume(run.out, config, run.manifest, how, start)
    state = make_state(config, how, peers, target, start)
    done = 0 if newest is None else load_state(newest, state)
    facts = run.manifest | manifest.of_run(config, how, peers, start)
    if peers.is_main:
        clear(run.out)
        manifest.write_start(run.out, facts, done)
    empty_prompt = data.empty_prompt.to(target)
    validates = any_says(validate is not None and config.train.validate_every > 0, peers, target)
    bar = tqdm(total=config.train.num_steps, initial=done, disable=not peers.is_main, desc="train", unit="step")
    last, meter, num_idle = run.out / f"step-{done:07d}", _meter(config, how, peers, target, newest), 0
    saver = Saver(run.out, peers, keep_every=config.train.keep_every)
    with _log(run, facts, peers) as log, StopSign(max_minutes, peers, target) as stop, saver:
        for now in range(done, config.train.num_steps):
            finished = now + 1
            is_logged = finished % config.train.log_every == 0
            with meter.waiting():
                batch, sources = _my_batch(config, data, peers, now, target)
            drawn = _my_draw(batch, config, peers, now)
            losses = compute_gradients(
                _xwam(state), batch, drawn, empty_prompt, config, peers, how, sources if is_logged else None
            )
            norm = change_weights(state, config, peers, now)
            num_idle = check_gradient(norm, finished, num_idle)
            bar.update()
            saver.poll()
            if is_logged:
                numbers = _numbers(losses, norm, config, peers, now, meter)
                log(numbers, finished)
                bar.set_postfix_str(_shown(numbers))
            ends = finished == config.train.num_steps or stop.is_up()
            if ends or finished % config.train.save_every == 0:
                last = _save(config, run, state, finished, peers, saver, facts | meter.hours())
            if validates and finished % config.train.validate_every == 0:
                saver.finish()
                log(_validated(state, peers, validate, finished), finished)
            if ends:
                break
        saver.end(state)
    bar.close()
    if stop.was_interrupted:
        raise KeyboardInterrupt
    return last


def _log(run: Run, facts: dict[str, Any], peers: Peers) -> AbstractContextManager[Log]:
    """The log of the main process; the others say nothing."""
    if peers.is_main:
        return open_log(run.out, wandb_project=run.wandb_project, settings=facts)
    return nullcontext(lambda numbers, finished: None)


def _validated(
    state: checkpoint.TrainingState, peers: Peers, validate: Validate | None, finished: int
) -> dict[str, float]:
    """All processes put the weights together; the main one looks at them."""
    average = averaged_weights(state, peers)
    return {} if validate is None else {f"validation/{k}": v for k, v in validate(average, finished).items()}


def _numbers(losses: Losses, norm: Tensor, config: Config, peers: Peers, now: int, meter: Meter) -> dict[str, float]:
    rate = learning_rate_at(now, config.train)
    return global_losses(losses, peers) | {"gradient_norm": norm.item(), "lr": rate} | meter.read()


def _meter(config: Config, how: Setup, peers: Peers, device: torch.device, newest: Path | None) -> Meter:
    in_bfloat16 = is_bfloat16(device, how.precision)
    parts = {"num_ranks": peers.num_ranks, "accumulate": how.accumulate}
    limit = samples_per_second_limit(config, device, in_bfloat16=in_bfloat16, **parts)
    return Meter(config.train.batch_size, limit, manifest.hours_of(newest))


def _shown(numbers: dict[str, float]) -> str:
    short = {name.split("/")[-1]: value for name, value in numbers.items() if name.count("/") < 2}
    return " ".join(f"{name}={value:.3g}" for name, value in short.items())


def _my_batch(config: Config, data: TrainingData, peers: Peers, now: int, device: torch.device) -> tuple[Batch, Any]:
    indices, visits = batch_indices(len(data), config.train.batch_size, config.train.seed, now)
    mine, passes = indices[peers.rank :: peers.num_ranks], visits[peers.rank :: peers.num_ranks]
    parts = [data.batch(mine[passes == visit], visit) for visit in np.unique(passes).tolist()]  # in their order
    whole = parts[0] if len(parts) == 1 else Batch(*(torch.cat(column) for column in zip(*parts, strict=True)))
    batch = Batch(*(tensor.to(device, non_blocking=True) for tensor in whole))
    return batch, (data.source_names, data.sources(mine)) if len(data.source_names) > 1 else None


def _my_draw(batch: Batch, config: Config, peers: Peers, now: int) -> step.Draw:
    """Draw for the global batch, keep this process's rows: the same noise whatever the number of processes."""
    generator = step.generator_for(config.train.seed, now, batch.video.device)
    shapes = Batch(*(x[:1].expand(config.train.batch_size, *x.shape[1:]) for x in batch))  # no memory of their own
    return step.only_taught(step.share(step.draw(shapes, config, generator), peers.rank, peers.num_ranks), batch)


def _xwam(state: checkpoint.TrainingState) -> XWAM:
    assert isinstance(state.model, XWAM)
    return state.model


def _save(
    config: Config,
    run: Run,
    state: checkpoint.TrainingState,
    finished: int,
    peers: Peers,
    saver: Saver,
    facts: dict[str, Any],
) -> Path:
    """Begin to write a checkpoint. Whole models come with ``model.safetensors``; others get theirs when exported."""
    now = facts | {"steps": finished, "samples": finished * config.train.batch_size}
    is_whole = not sharding.is_sharded(state.model) and not facts["setup"]["lora_rank"]

    def fill(folder: Path) -> None:
        checkpoint.save_policy_files(folder, config, run.robot, run.frozen, now)
        if is_whole:
            save_weights(folder / "model.safetensors", state.average)

    return saver.start(finished, state, fill)
