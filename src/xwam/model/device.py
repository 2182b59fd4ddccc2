"""Where networks run."""

import os
import warnings

import torch


def warn_of_idle_gpu(device: str) -> None:
    """For work of minutes and more: who has a GPU may not know that it must be named."""
    if device == "cpu" and torch.cuda.is_available() and os.environ.get("RANK", "0") == "0":
        found = torch.cuda.get_device_name()
        warnings.warn(f"device='cpu' while a GPU is there ({found}): --device cuda uses it.", stacklevel=2)


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ValueError for one that is not there, or cannot compute what is needed."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={str(name)!r}: must be cpu, cuda, or one GPU of several, such as cuda:1.") from error
    if device.type == "mps":
        raise ValueError(f"device={name}: has no float64, in which noise levels are kept; use cpu or cuda.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={str(name)!r}: torch {torch.__version__} finds no CUDA GPU; use cpu.")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise ValueError(f"device={str(name)!r}: there are {torch.cuda.device_count()} GPUs, from cuda:0 on.")
    return device
