"""How fast a run learns, and how fast its average follows, at every step."""

import math

from xwam.config import TrainConfig


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Linear warm-up, a quarter of the run at most, then a cosine down to a hundredth of the peak at ``num_steps``."""
    warmup = min(config.num_warmup_steps, config.num_steps // 4)  # or a short run would end before its peak
    return config.learning_rate * warm_then_cosine(step, warmup, config.num_steps, floor=0.01)


def warm_then_cosine(step: int, num_warmup: int, num_steps: int, *, floor: float) -> float:
    """A share of the peak: up in a straight line, then half a cosine down to ``floor`` at ``num_steps``."""
    if step < num_warmup:
        return (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def ema_decay_at(step: int, decay: float) -> float:
    """Young runs forget faster, so that the random start does not linger."""
    return min(decay, (1 + step) / (10 + step))
