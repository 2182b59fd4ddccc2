"""How fast a training step could be: its operations, and what this machine's matrix products would make of them."""

from functools import lru_cache

import torch

from xwam.bench.clock import matrix_rate
from xwam.bench.operations import count, inputs_of, product_shapes
from xwam.config import Config
from xwam.model.xwam import XWAM

NUM_SHAPES = 3  # of matrix products whose rate is measured


@lru_cache
def operations_per_sample(config: Config) -> int:
    """Forward and backward of one sample, depth and prompt included; nothing computed twice."""
    with torch.device("meta"):
        model = XWAM(config.model)
        inputs = inputs_of(config, 1, torch.device("meta"))
        context = torch.empty(1, config.model.text_length, config.model.text_width)

        def step() -> None:
            output = model(*inputs, model.prompt_keys_values(context), depth=config.model.has_depth)
            torch.stack([part.sum() for part in output if part is not None]).sum().backward()

        return count(step)


def samples_per_second_limit(
    config: Config, device: torch.device, *, in_bfloat16: bool, num_ranks: int = 1, accumulate: int = 1
) -> float:
    """Samples per second of a step that were nothing but matrix products, each as fast as the best one here.

    Measures the products once per process, in about a second.
    """
    dtype = torch.bfloat16 if in_bfloat16 else torch.float32
    rows = max(1, config.train.batch_size // (num_ranks * accumulate))  # of one micro-batch: no more memory than that
    rate = _rate(config, rows, device, dtype)
    threads = torch.get_num_threads() if device.type == "cpu" else 1  # the rate is that of one thread
    return num_ranks * threads * rate / operations_per_sample(config)


@lru_cache
def _rate(config: Config, rows: int, device: torch.device, dtype: torch.dtype) -> float:
    shapes = [(rows * length, inner, columns) for length, inner, columns in product_shapes(config)[:NUM_SHAPES]]
    return max(matrix_rate(shapes, device, dtype, repeats=3).values())
