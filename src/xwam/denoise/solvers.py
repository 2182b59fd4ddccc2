"""From noise to data along the velocity: the schedule, and two solvers.

A solver is a function ``step(sample, velocity, index, memory) -> (next sample, memory)``; ``memory`` is None before
the first step and is a value, so one solver serves any number of tensors.

``unipc`` is UniPC (arXiv 2302.04867), order 2, variant B2, with corrector, on the clean data that the velocity points
to. Its equations are linear in the tensors, and their factors depend on the schedule alone; so all factors are
computed beforehand, in plain numbers. The tests hold it to diffusers' ``UniPCMultistepScheduler``, which does the same
but solves a small linear system on the device in every step (the host must wait for it) and keeps its state inside.

With ``alpha = 1 - sigma``, ``lambda = log(alpha / sigma)`` and ``h`` the step in lambda from s to t, a step is::

    x_t = sigma_t/sigma_s x_s + alpha_t (1 - e^-h) (m_s + rho (m_r - m_s) / r + rho_t (m_t - m_s))

where ``m`` is the clean data seen at a level, ``r = (lambda_r - lambda_s) / h`` places the level before s. The
predictor has no ``m_t`` (rho = 1/2); the corrector, when ``m_t`` is known, redoes the step that led to t.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from xwam.denoise.noise import shift
from xwam.strict_json import suggest

NUM_TIMESTEPS = 1000  # the network is told whole timesteps at inference
_FIRST_LEVEL = float(np.float32(0.999))  # where schedules start, before the shift


class Schedule(NamedTuple):
    """Levels falling from nearly 1 to exactly 0, one more than there are steps, and what the network is told."""

    sigmas: tuple[float, ...]
    network_sigmas: tuple[float, ...]  # truncated to whole timesteps, as the released weights expect


def schedule(num_steps: int, shift_amount: float) -> Schedule:
    """The levels of ``num_steps`` steps. Raises ValueError for so many that the first two look the same.

    The published solver breaks there; later levels that share a whole timestep do no harm.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: at least 1.")
    levels = shift(np.linspace(_FIRST_LEVEL, 0.0, num_steps + 1)[:-1], shift_amount)
    timesteps = (levels * NUM_TIMESTEPS).astype(np.int64)
    if num_steps > 1 and timesteps[0] == timesteps[1]:
        raise ValueError(
            f"num_steps={num_steps}, shift={shift_amount}: the first two steps have the same whole timestep. "
            "Use fewer steps (at shift 5 at most 250; 50 and 10 are the published numbers)."
        )
    sigmas = np.append(levels, 0.0).astype(np.float32)
    return Schedule(tuple(sigmas.tolist()), tuple((timesteps / NUM_TIMESTEPS).tolist()))


class Memory(NamedTuple):
    """What UniPC remembers of the step before: where it started, and the clean data seen there and earlier."""

    sample: Tensor
    clean: Tensor
    older_clean: Tensor | None


Solver = Callable[[Tensor, Tensor, int, Memory | None], tuple[Tensor, Memory | None]]


def make_solver(name: str, sigmas: tuple[float, ...]) -> Solver:
    """The solver of that name (``unipc`` or ``euler``) for one schedule."""
    if name not in _SOLVERS:
        raise ValueError(f"solver={name!r}: {suggest(name, _SOLVERS)}")
    return _SOLVERS[name](sigmas)


def euler(sigmas: tuple[float, ...]) -> Solver:
    """Straight steps along the velocity."""

    def step(
        sample: Float[Tensor, "*all"], velocity: Float[Tensor, "*all"], index: int, memory: Memory | None
    ) -> tuple[Float[Tensor, "*all"], Memory | None]:
        return sample + (sigmas[index + 1] - sigmas[index]) * velocity.to(sample.dtype), memory

    return step


def unipc(sigmas: tuple[float, ...]) -> Solver:
    """UniPC of order 2 (1 in the first and the last step), with corrector."""
    num_steps = len(sigmas) - 1
    orders = [min(2, index + 1, num_steps - index) for index in range(num_steps)]
    predictors = [_factors(sigmas, index, orders[index], corrects=False) for index in range(num_steps)]
    # Before step i, the corrector redoes step i-1 with that step's order.
    correctors = [_factors(sigmas, index, orders[index], corrects=True) for index in range(num_steps - 1)]

    def step(
        sample: Float[Tensor, "*all"], velocity: Float[Tensor, "*all"], index: int, memory: Memory | None
    ) -> tuple[Float[Tensor, "*all"], Memory | None]:
        clean = sample - sigmas[index] * velocity.to(sample.dtype)
        older_clean = None
        if memory is not None:
            sample = _combine(correctors[index - 1], memory.sample, memory.clean, memory.older_clean, clean)
            older_clean = memory.clean
        result = _combine(predictors[index], sample, clean, older_clean, None)
        return result, Memory(sample, clean, older_clean)

    return step


class _Factors(NamedTuple):
    """A step as a weighted sum of the tensors it reads."""

    sample: float
    clean: float
    older_clean: float
    newer_clean: float


def _combine(
    factors: _Factors, sample: Tensor, clean: Tensor, older_clean: Tensor | None, newer_clean: Tensor | None
) -> Tensor:
    result = factors.sample * sample + factors.clean * clean
    if older_clean is not None and factors.older_clean:
        result = result + factors.older_clean * older_clean
    if newer_clean is not None and factors.newer_clean:
        result = result + factors.newer_clean * newer_clean
    return result


def _factors(sigmas: tuple[float, ...], index: int, order: int, *, corrects: bool) -> _Factors:
    """The step from level ``index`` to ``index + 1``; the corrector also reads the clean data at its end."""
    sigma, next_sigma = sigmas[index], sigmas[index + 1]
    if next_sigma == 0:  # lambda is infinite there: the answer is the clean data itself
        return _Factors(sample=0.0, clean=1.0, older_clean=0.0, newer_clean=0.0)
    h = _log_ratio(next_sigma) - _log_ratio(sigma)
    gain = (1 - next_sigma) * -math.expm1(-h)
    ratio = (_log_ratio(sigmas[index - 1]) - _log_ratio(sigma)) / h if order == 2 else 1.0
    older, newer = _rho(h, ratio, order, corrects)
    return _Factors(
        sample=next_sigma / sigma,
        clean=gain * (1 - older / ratio - newer),
        older_clean=gain * older / ratio,
        newer_clean=gain * newer,
    )


def _rho(h: float, ratio: float, order: int, corrects: bool) -> tuple[float, float]:
    """The shares of the older and the newer difference."""
    if not corrects:
        return (0.5 if order == 2 else 0.0), 0.0
    if order == 1:
        return 0.0, 0.5
    # Match two moments of the exponential integral:  older + newer = b1,  ratio older + newer = b2.
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    b1 = phi_2 / phi_1
    b2 = 2 * (phi_2 / -h - 0.5) / phi_1
    older = (b1 - b2) / (1 - ratio)
    return older, b1 - older


def _log_ratio(sigma: float) -> float:
    return math.log1p(-sigma) - math.log(sigma)


_SOLVERS: dict[str, Callable[[tuple[float, ...]], Solver]] = {"unipc": unipc, "euler": euler}
