"""Where networks run."""

import torch


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ValueError for one that cannot compute what these networks need."""
    device = torch.device(name)
    if device.type == "mps":
        raise ValueError(f"device={name}: has no float64, in which noise levels are kept; use cpu or cuda.")
    return device
