"""Where networks run."""

import torch


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
