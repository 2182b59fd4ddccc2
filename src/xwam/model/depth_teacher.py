"""Depth from single images: a teacher where nobody measured depth, and the rival of our own depth branch.

In: uint8 RGB. Out: what a depth model says, at the size of the images: a ``metric`` model metres, a ``relative``
one inverse depth up to a scale and a shift of its own. ``fit_alignment`` finds both from whatever depth was measured,
``to_metres`` applies them:

- metric: ``d = scale * estimate``, ``scale = median(measured) / median(estimate)`` (Zhou, Brown, Snavely, Lowe, CVPR
  2017, arXiv 1704.07813, section 4.1);
- relative: ``1 / d = scale * estimate + shift``, by least squares in inverse depth (Ranftl, Lasinger, Hafner,
  Schindler, Koltun, TPAMI 2020, arXiv 1907.01341, section 5).
"""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from xwam.model.device import device_of
from xwam.strict_json import suggest

Kind = Literal["metric", "relative"]
KINDS: dict[str, Kind] = {"depth_pro": "metric", "zoedepth": "metric", "glpn": "metric", "dpt": "relative"}
BATCH = 8
EXAMPLE = "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"


@runtime_checkable
class DepthTeacher(Protocol):
    """Anything that guesses depth from images. Write one for a model that transformers does not have."""

    name: str  # for the records: which model said so
    kind: Kind

    def estimate(self, images: UInt8[np.ndarray, "N H W 3"]) -> Float32[np.ndarray, "N H W"]:
        """Metres (metric), or inverse depth up to scale and shift (relative); 0 or less: far away."""
        ...


class Alignment(NamedTuple):
    """How estimates become metres, and what it was fitted on."""

    scale: float = 1.0
    shift: float = 0.0  # 1/m; relative estimates only
    abs_rel: float | None = None  # mean |d - g| / g left on the fitted pixels; None: not fitted
    num_pixels: int = 0


class MonocularDepth:
    """A depth model of transformers (DepthAnything V1 and V2, DepthPro, ZoeDepth, GLPN, DPT) from a local folder."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Raises FileNotFoundError or ValueError that names the folder; nothing is ever downloaded."""
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise FileNotFoundError(
                f"folder={folder}: no depth model there (config.json, preprocessor_config.json, *.safetensors); on a "
                f"machine with network run `hf download {EXAMPLE} --local-dir {folder}`, or copy such a folder."
            )
        settings = AutoConfig.from_pretrained(folder, local_files_only=True)
        self.kind: Kind = _kind_of(settings, folder)
        self.name = f"{folder.name} ({settings.model_type}, {self.kind})"
        self.device = device_of(device)
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model, loaded = AutoModelForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        if loaded["missing_keys"]:
            lacking = ", ".join(sorted(loaded["missing_keys"])[:3])
            raise ValueError(f"folder={folder}: the weights lack {lacking} …; copy the folder again.")
        self.model = model.to(self.device).eval()

    @torch.no_grad()
    def estimate(self, images: UInt8[np.ndarray, "N H W 3"]) -> Float32[np.ndarray, "N H W"]:
        """Metres (metric), or inverse depth up to scale and shift (relative)."""
        size = images.shape[1:3]
        found = [np.zeros((0, *size), np.float32)]
        for start in range(0, len(images), BATCH):
            batch = list(images[start : start + BATCH])
            pixels = self.processor(images=batch, return_tensors="pt").to(self.device)
            answers = self.processor.post_process_depth_estimation(self.model(**pixels), [size] * len(batch))
            found.append(torch.stack([answer["predicted_depth"] for answer in answers]).float().cpu().numpy())
        return np.concatenate(found)


def fit_alignment(estimate: Float[np.ndarray, "*any"], measured_m: Float[np.ndarray, "*any"], kind: Kind) -> Alignment:
    """The scale (and shift) that bring estimates nearest to measured depth (metres, 0 = unknown).

    Raises ValueError when too few pixels are measured to say.
    """
    known = np.isfinite(estimate) & np.isfinite(measured_m) & (measured_m > 0)
    if kind == "metric":
        known &= estimate > 0
    e, g = estimate[known].astype(np.float64), measured_m[known].astype(np.float64)
    if len(e) < 2 or (kind == "relative" and np.ptp(e) == 0):
        raise ValueError(f"{len(e)} measured pixels and {len(np.unique(e))} different estimates: need 2 of each.")
    if kind == "metric":
        fitted = Alignment(scale=float(np.median(g) / np.median(e)))
    else:
        scale, shift = np.polyfit(e, 1 / g, 1)
        fitted = Alignment(scale=float(scale), shift=float(shift))
    left = np.abs(to_metres(e, kind, fitted, far_m=float(g.max())) - g) / g
    return fitted._replace(abs_rel=float(left.mean()), num_pixels=len(e))


def to_metres(
    estimate: Float[np.ndarray, "*any"], kind: Kind, alignment: Alignment, *, far_m: float
) -> Float32[np.ndarray, "*any"]:
    """Estimates in metres, at most ``far_m``: what is further away, or has no distance at all, lies there."""
    if kind == "metric":
        metres = np.where(estimate > 0, alignment.scale * estimate, far_m)
    else:
        metres = 1 / np.maximum(alignment.scale * estimate + alignment.shift, 1 / far_m)
    return np.minimum(metres, far_m).astype(np.float32)


def _kind_of(settings: object, folder: Path) -> Kind:
    facts = vars(settings)
    family = str(type(settings).model_type)  # pyright: ignore[reportAttributeAccessIssue]
    if family == "depth_anything":
        return facts["depth_estimation_type"]
    if family not in KINDS:
        allowed = suggest(family, ["depth_anything", *KINDS])
        raise ValueError(f"folder={folder} has model_type={family!r}, which does not answer depth: {allowed}")
    return KINDS[family]
