"""The transformer's weights on disk: one or several safetensors files, names and shapes exactly those of the model.

Reading is strict. There is never a second copy in memory: the model is built without storage and takes over each
tensor as it is read, file by file.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from xwam.config import ModelConfig
from xwam.files import whole_file
from xwam.model.device import device_of
from xwam.model.shards import weight_files
from xwam.model.stored import safetensors_contents
from xwam.model.xwam import XWAM

DEPTH_PREFIXES = ("extra_blocks.", "extra_heads.")
MAX_NAMES_SHOWN = 8


def save_weights(path: Path, weights: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Write named tensors, in ``dtype`` if given; whole or not at all."""
    on_disk = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    with whole_file(path) as temporary:
        save_file(on_disk, temporary)


def load_weights(
    path: Path,
    config: ModelConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    depth: bool = True,
) -> XWAM:
    """The model with the weights of ``path``, or of the files that the index beside it names.

    ``depth=False`` leaves the depth branch on disk. Raises FileNotFoundError, or ValueError naming the unexpected,
    missing and mis-shaped tensors.
    """
    device, files = device_of(device), weight_files(path)
    with torch.device("meta"):
        model = XWAM(config if depth else replace(config, num_depth_blocks=0))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found |= {n: stored.shape for n, stored in safetensors_contents(file).items() if depth or not is_depth_name(n)}
    check_names(expected, found, where=str(path))
    for file in files:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            names = [name for name in opened.keys() if name in expected]  # noqa: SIM118
            weights = {name: opened.get_tensor(name).to(dtype) for name in names}
        model.load_state_dict(weights, strict=False, assign=True)
    return model


def is_depth_name(name: str) -> bool:
    """True for tensors of the depth branch."""
    return name.startswith(DEPTH_PREFIXES)


def check_names(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Raise ValueError unless both have the same names and shapes."""
    wrong = [n for n in expected if n in found and expected[n] != found[n]]
    problems = {
        "unexpected": [n for n in found if n not in expected],
        "missing": [n for n in expected if n not in found],
        "mis-shaped": [f"{n} {found[n]} (must be {expected[n]})" for n in wrong],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {kind}: {shorten(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{where}: these weights do not fit the model: {text}. Use the config that they came with.")


def shorten(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    return shown if len(names) <= MAX_NAMES_SHOWN else f"{shown}, and {len(names) - MAX_NAMES_SHOWN} more"
