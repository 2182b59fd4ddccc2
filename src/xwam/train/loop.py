"""The training loop, top to bottom: read a batch, step, average, log, validate, save.

Stops and resumes exactly: batches, noise and dropped prompts are functions of (seed, step), so a run that was
interrupted gives the same losses as one that was not. ``torchrun`` spreads the global batch over processes.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from xwam.config import Config
from xwam.encode import Batch
from xwam.model.weights import save_weights
from xwam.model.xwam import XWAM, init_weights
from xwam.train import checkpoint, setup, step
from xwam.train.stop import StopSign


@runtime_checkable
class TrainingData(Protocol):
    """Encoded clips: what the loop reads."""

    empty_prompt: Float[Tensor, "P Dt"]
    fingerprint: str

    def __len__(self) -> int: ...

    def batch(self, indices: Int[np.ndarray, " B"], visit: int) -> Batch:
        """The clips of these indices; ``visit`` counts how often the data was gone through (picks the variant)."""
        ...


class Run(NamedTuple):
    """Where a run writes and what its checkpoints carry besides the weights."""

    out: Path
    robot: checkpoint.Robot
    frozen: Path  # a folder with vae/ and text/
    manifest: dict[str, Any]


Validate = Callable[[dict[str, Tensor], int], dict[str, float]]
"""Called with the averaged weights and the step; returns numbers to log."""


def batch_indices(size: int, batch_size: int, seed: int, at_step: int) -> tuple[Int[np.ndarray, " B"], int]:
    """The clips of one global batch and the visit they belong to: shuffled passes over the data, end to end."""
    first = at_step * batch_size
    visit = first // size
    wanted = np.arange(first, first + batch_size)
    passes = {p: np.random.default_rng((seed, p)).permutation(size) for p in np.unique(wanted // size).tolist()}
    return np.array([passes[n // size][n % size] for n in wanted.tolist()]), visit


def train(
    config: Config,
    data: TrainingData,
    run: Run,
    *,
    device: str = "cpu",
    initial: dict[str, Tensor] | None = None,
    validate: Validate | None = None,
    precision: setup.Precision = "auto",
    max_minutes: float | None = None,
) -> Path:
    """Train until ``num_steps`` (or ``max_minutes``) and return the last checkpoint's folder.

    ``initial``: weights to start from (fine-tuning); fresh ones otherwise. Resumes from the newest checkpoint in
    ``run.out``. Ctrl-C saves first. Raises ValueError when that run was made with other data.
    """
    target = torch.device(device)
    world = setup.join_world(target)
    state = _make_state(config, target, initial)
    done = _resume(config, run, state)
    log = _open_log(run.out, config, world)
    if config.train.compile:
        setup.compile_blocks(_xwam(state))

    bar = tqdm(total=config.train.num_steps, initial=done, disable=not world.is_main, desc="train", unit="step")
    last, meter = run.out / f"step-{done:07d}", Meter(config.train.batch_size)
    with StopSign(max_minutes, world, target) as stop:
        for now in range(done, config.train.num_steps):
            with meter.waiting():
                batch = _my_batch(config, data, world, now, target)
            with setup.matrix_precision(target, precision):
                losses = compute_losses(state, batch, data.empty_prompt.to(target), config, world, now)
            norm = descend(state, losses, config, world, now)
            bar.update()
            finished = now + 1
            if finished % config.train.log_every == 0:
                numbers = {f"loss/{k}": setup.add_up(v.detach(), world).item() for k, v in losses.items()}
                numbers |= {"gradient_norm": norm.item(), "lr": setup.learning_rate_at(now, config.train)}
                numbers |= meter.read()
                log(numbers, finished)
                bar.set_postfix_str(" ".join(f"{k.split('/')[-1]}={v:.3g}" for k, v in numbers.items()))
            if validate and world.is_main and finished % config.train.validate_every == 0:
                log({f"validation/{k}": v for k, v in validate(state.average, finished).items()}, finished)
            ends = finished == config.train.num_steps or stop.is_up()
            if ends or finished % config.train.save_every == 0:
                last = _save(config, run, state, finished, world)
            if ends:
                break
    bar.close()
    if stop.was_interrupted:
        raise KeyboardInterrupt
    return last


class Meter:
    """Samples per second, and the share of the time that was spent waiting for data, since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self._steps = batch_size, 0
        self._mark, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside this context is waiting."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The numbers, and start anew."""
        seconds, steps = time.perf_counter() - self._mark, self._steps
        share, self._mark, self._waited, self._steps = self._waited / seconds, time.perf_counter(), 0.0, 0
        return {"samples_per_second": steps * self.batch_size / seconds, "data_wait_share": share}


def compute_losses(
    state: checkpoint.TrainingState,
    batch: Batch,
    empty_prompt: Float[Tensor, "P Dt"],
    config: Config,
    world: setup.World,
    now: int,
) -> dict[str, Tensor]:
    """This process's share of every loss in step ``now``."""
    drawn = _my_draw(batch, config, world, now)
    terms = step.compute_terms(_xwam(state), batch, drawn, empty_prompt)
    return setup.global_means(terms, world)


def descend(
    state: checkpoint.TrainingState, losses: dict[str, Tensor], config: Config, world: setup.World, now: int
) -> Tensor:
    """Change weights and averages in place; returns the gradient's norm. Raises ValueError for a loss of inf or NaN."""
    total = step.total_loss(losses, config)
    if not torch.isfinite(total):
        raise ValueError(f"loss={total.item()} at step {now}: lower learning_rate or check the data for wild values.")
    total.backward()
    setup.add_gradients(state.model, world)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.train.max_gradient_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = setup.learning_rate_at(now, config.train)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    _update_average(state, config.train.ema_decay, now)
    return norm


def _my_batch(config: Config, data: TrainingData, world: setup.World, now: int, device: torch.device) -> Batch:
    indices, visit = batch_indices(len(data), config.train.batch_size, config.train.seed, now)
    mine = data.batch(indices[world.rank :: world.num_ranks], visit)
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in mine))


def _my_draw(batch: Batch, config: Config, world: setup.World, now: int) -> step.Draw:
    """Draw for the global batch, keep this process's rows: the same noise whatever the number of processes."""
    generator = step.generator_for(config.train.seed, now)
    if world.num_ranks == 1:
        return step.draw(batch, config, generator)
    shapes = Batch(*(x.new_empty((config.train.batch_size, *x.shape[1:])) for x in batch))
    return step.share(step.draw(shapes, config, generator), world.rank, world.num_ranks)


def _make_state(config: Config, device: torch.device, initial: dict[str, Tensor] | None) -> checkpoint.TrainingState:
    model = XWAM(config.model)
    if initial is None:
        init_weights(model, torch.Generator().manual_seed(config.train.seed))
    else:
        model.load_state_dict(initial)
    model.to(device)
    average = {name: value.detach().float().clone() for name, value in model.state_dict().items()}
    return checkpoint.TrainingState(model, average, setup.make_optimizer(model, config.train))


def _xwam(state: checkpoint.TrainingState) -> XWAM:
    assert isinstance(state.model, XWAM)
    return state.model


def _update_average(state: checkpoint.TrainingState, decay: float, now: int) -> None:
    """EMA of the weights; young runs forget faster, so that the random start does not linger."""
    decay = min(decay, (1 + now) / (10 + now))
    for name, weight in state.model.state_dict().items():
        state.average[name].lerp_(weight.detach().float(), 1 - decay)


def _resume(config: Config, run: Run, state: checkpoint.TrainingState) -> int:
    newest = checkpoint.newest_checkpoint(run.out)
    if newest is None:
        return 0
    stored = json.loads((newest / "manifest.json").read_text())
    for key in ("data", "statistics"):
        if stored[key] != run.manifest[key]:
            raise ValueError(
                f"{key}={run.manifest[key]} differs from {stored[key]} of the run in {run.out}: "
                "continue with the same data, or train into an empty folder."
            )
    return checkpoint.load_training(newest, state)


def _save(config: Config, run: Run, state: checkpoint.TrainingState, finished: int, world: setup.World) -> Path:
    target = run.out / f"step-{finished:07d}"
    if not world.is_main:
        return target
    manifest = run.manifest | {"steps": finished, "samples": finished * config.train.batch_size}

    def fill(folder: Path) -> None:
        checkpoint.save_policy_files(folder, config, run.robot, run.frozen, manifest)
        save_weights(folder / "model.safetensors", state.average)
        checkpoint.save_training(folder, state, finished)

    checkpoint.write_whole(target, fill)
    checkpoint.keep_newest(run.out, 2)
    return target


def _open_log(out: Path, config: Config, world: setup.World) -> Callable[[dict[str, float], int], None]:
    """Numbers go to ``log.jsonl`` and, when TensorBoard is installed, to its event files."""
    out.mkdir(parents=True, exist_ok=True)
    if not world.is_main:
        return lambda numbers, finished: None
    (out / "config.json").write_text(json.dumps({"name": config.name}) + "\n")
    try:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(out / "tensorboard"))
    except ImportError:
        board = None

    def log(numbers: dict[str, float], finished: int) -> None:
        with (out / "log.jsonl").open("a") as lines:
            lines.write(json.dumps({"step": finished, **numbers}) + "\n")
        if board is not None:
            for name, value in numbers.items():
                board.add_scalar(name, value, finished)

    return log
