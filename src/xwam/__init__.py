"""xwam: actions now, a 4D world a little later, from one model (X-WAM, arXiv 2604.26694).

The public names load lazily: importing xwam does not import torch.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Camera": "records",
    "Clip": "records",
    "Observation": "records",
    "Prediction": "records",
    "Config": "config",
    "Layout": "robot.layout",
    "Normalizer": "robot.normalizer",
    "NoiseLevels": "denoise.noise",
    "Policy": "policy",
    "imagine_actions": "dynamics",
    "load_policy": "policy",
    "preset": "presets",
    "Env": "sim.env",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'xwam' has no attribute {name!r}; it has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"xwam.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
