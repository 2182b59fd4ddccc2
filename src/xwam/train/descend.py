"""One step down: gradients of the global batch over all micro-batches and processes, then the change of the weights.

Every part of the batch is divided by what counts in the whole of it, so parts simply add up: to the same loss and the
same gradients, however the batch was cut.
"""

import warnings
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xwam.config import Config
from xwam.denoise.losses import Term, loss_terms
from xwam.model.weights import is_depth_name
from xwam.model.xwam import XWAM
from xwam.tensors import Batch, Velocity
from xwam.train import sharding, state, step
from xwam.train.checkpoint import TrainingState
from xwam.train.optimizers import take_step
from xwam.train.options import Setup
from xwam.train.peers import Peers, add_gradients, add_up, global_counts
from xwam.train.precision import matrix_precision
from xwam.train.rates import learning_rate_at

MOST_IDLE = 10  # steps in a row without a finite gradient
Sources = tuple[tuple[str, ...], Int[np.ndarray, " B"]]
"""Names of the data sets of a mixture, and which of them each row comes from."""


class Losses(NamedTuple):
    """This process's share of the losses of one step; shares of all processes add up."""

    by_modality: dict[str, Tensor]
    by_source: dict[str, Term]  # "video/NAME": sum and count; empty unless asked for


def compute_gradients(
    model: XWAM,
    batch: Batch,
    drawn: step.Draw,
    empty_prompt: Float[Tensor, "P Dt"],
    config: Config,
    peers: Peers,
    how: Setup,
    sources: Sources | None = None,
) -> Losses:
    """Add the gradients of this process's rows to the weights'."""
    device = batch.video.device
    has_depth = config.model.has_depth
    counts = global_counts(step.count_terms(batch, drawn, has_depth=has_depth), peers)
    found = Losses({}, {})
    for part in range(how.accumulate):
        rows, draws = step.cut(batch, part, how.accumulate), step.share(drawn, part, how.accumulate)
        with _precision(model, device, how):
            output = step.predict(model, rows, draws, empty_prompt)
            terms = loss_terms(output, rows, draws)
            losses = {name: term.sum / counts[name] for name, term in terms.items()}
        step.total_loss(losses, config).backward()
        for name, loss in losses.items():
            found.by_modality[name] = found.by_modality.get(name, 0) + loss.detach()
        if sources is not None:
            names, numbers = sources
            _add_sources(found.by_source, output, rows, draws, (names, numbers[part :: how.accumulate]))
    return found


def change_weights(trained: TrainingState, config: Config, peers: Peers, now: int) -> Tensor:
    """Change weights and averages in place by the gradients of step ``now``; returns the gradient's norm.

    A gradient that is no finite number changes nothing: see check_gradient.
    """
    if not sharding.is_sharded(trained.model):
        add_gradients(trained.model, peers)
    if config.train.depth_loss_weight == 0:  # nothing teaches the branch: weight decay shall not shrink it either
        for name, weight in trained.model.named_parameters():
            weight.grad = None if is_depth_name(name) else weight.grad
    norm = torch.nn.utils.clip_grad_norm_(trained.model.parameters(), config.train.max_gradient_norm)
    norm = sharding.whole(norm)
    if torch.isfinite(norm):  # the same number in all processes
        take_step(trained.model, trained.optimizer, learning_rate_at(now, config.train))
        state.update_average(trained, config.train.ema_decay, now)
    else:
        trained.model.zero_grad(set_to_none=True)
    return norm


def check_gradient(
    norm: Tensor, finished: int, num_before: int, advice: str = "lower --learning-rate and repeat the command"
) -> int:
    """How many steps in a row, this one included, had no finite gradient and changed nothing; 0 after a good one.

    One may be a clip with wild values, and is said in a warning. Raises ValueError for MOST_IDLE of them: then it is
    the weights. Saved checkpoints are from before, and ``learning_rate`` may be another when the run goes on.
    """
    if torch.isfinite(norm):
        return 0
    if num_before + 1 == MOST_IDLE:
        raise ValueError(
            f"gradient_norm={norm.item()} at step {finished} and {num_before} before it: {advice}, "
            "or check the data for wild values (`xwam check data`)."
        )
    warnings.warn(f"gradient_norm={norm.item()} at step {finished}: nothing was learned in it.", stacklevel=2)
    return num_before + 1


def global_losses(losses: Losses, peers: Peers) -> dict[str, float]:
    """The losses of the whole batch, to be logged; all processes must ask."""
    numbers = {f"loss/{name}": add_up(loss, peers).item() for name, loss in losses.by_modality.items()}
    for name, term in losses.by_source.items():
        total, count = add_up(term.sum, peers).item(), add_up(term.count, peers).item()
        if count:
            numbers[f"loss/{name}"] = total / count
    return numbers


def _precision(model: XWAM, device: torch.device, how: Setup) -> AbstractContextManager[object]:
    """Sharded weights arrive in the precision they are meant for; whole ones are rounded on the way."""
    return matrix_precision(device, "float32" if sharding.is_sharded(model) else how.precision)


@torch.no_grad()
def _add_sources(found: dict[str, Term], output: Velocity, rows: Batch, draws: step.Draw, sources: Sources) -> None:
    names, numbers = sources
    for number, source in enumerate(names):
        chosen = torch.from_numpy(numbers == number).to(rows.video.device)
        for modality, term in loss_terms(output, step.only(rows, chosen), draws).items():
            name = f"{modality}/{source}"
            old = found.get(name, Term(torch.zeros_like(term.sum), torch.zeros_like(term.count)))
            found[name] = Term(old.sum + term.sum, old.count + term.count)
