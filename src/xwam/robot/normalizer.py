"""Physical units <-> the numbers the network sees; both directions, one set of statistics.

Bounds are the 1 % and 99 % quantiles of what training normalises. Unused slots are zero on both sides.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from xwam.files import write_text
from xwam.robot.layout import Layout, Part, layout_slices

UNUSUAL = 3.0  # half spans from the middle of the statistics; beyond is worth a warning
GENEROUS = 10.0  # half spans (or units, where that is more) from the middle of the statistics; beyond is absurd
SMALLEST_SPAN = 1e-6  # two quantiles closer than this count as this far apart


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Quantiles per slot, and the layout that says how each is used."""

    layout: Layout
    state_q01: Float[np.ndarray, " Ds"]
    state_q99: Float[np.ndarray, " Ds"]
    action_q01: Float[np.ndarray, " Da"]
    action_q99: Float[np.ndarray, " Da"]

    def normalize_state(self, state: Float[np.ndarray, "*steps Ds"]) -> Float[np.ndarray, "*steps Ds"]:
        """Physical units to about [-1, 1]. Quaternions keep their sign: ``encode.encode_states`` settles it."""
        self.layout.check_state(state)
        return _forward(state, *_scale(self.layout.state, self.state_q01, self.state_q99), self.layout.state_mask)

    def denormalize_state(self, state: Float[np.ndarray, "*steps Ds"]) -> Float[np.ndarray, "*steps Ds"]:
        """The inverse of normalize_state."""
        return _backward(state, *_scale(self.layout.state, self.state_q01, self.state_q99), self.layout.state_mask)

    def normalize_action(self, action: Float[np.ndarray, "*steps Da"]) -> Float[np.ndarray, "*steps Da"]:
        """Physical units to about [-1, 1]; zero motion stays zero."""
        self.layout.check_action(action)
        return _forward(action, *_scale(self.layout.action, self.action_q01, self.action_q99), self.layout.action_mask)

    def denormalize_action(self, action: Float[np.ndarray, "*steps Da"]) -> Float[np.ndarray, "*steps Da"]:
        """The inverse of normalize_action."""
        return _backward(action, *_scale(self.layout.action, self.action_q01, self.action_q99), self.layout.action_mask)

    def check_plausible(self, state: Float[np.ndarray, " Ds"]) -> None:
        """Raise ValueError for a state far from all that training has seen: a wrong unit or frame."""
        self.layout.check_quaternions(state)
        for what, bounds, _, frame in self._beyond(state, GENEROUS, 1.0).values():
            raise ValueError(
                f"state {what}: this checkpoint has seen nothing outside {bounds} by far; check units and frame "
                f"({frame})."
            )

    def unusual(self, state: Float[np.ndarray, " Ds"]) -> dict[str, str]:
        """What lies well beyond what training has seen, though nobody could call it absurd: texts, by part."""
        return {
            part: f"state {what} is unusual: 98 % of what this checkpoint learned from lies in {seen}; check units and "
            f"frame ({frame})."
            for part, (what, _, seen, frame) in self._beyond(state, UNUSUAL, 0.1).items()
        }

    def _beyond(self, state: np.ndarray, half_spans: float, least: float) -> dict[str, tuple[str, str, str, str]]:
        """Parts farther from the middle of the statistics than so many half spans, and than ``least`` of their unit.

        In words: the slot and its value; those bounds; the statistics; the part's frame.
        """
        found, middle = {}, (self.state_q01 + self.state_q99) / 2
        reach = np.maximum(half_spans * (self.state_q99 - self.state_q01) / 2, least)
        for part, where in layout_slices(self.layout.state):
            far = np.abs(state[where] - middle[where]) > reach[where]
            if part.is_used and part.kind != "quat_wxyz" and far.any():
                slot = int(np.argmax(far))
                low, high = (middle[where] - reach[where])[slot], (middle[where] + reach[where])[slot]
                what = f"{part.name}[{slot}]={state[where][slot]:.4g} {part.unit}"
                seen = f"{self.state_q01[where][slot]:.4g}..{self.state_q99[where][slot]:.4g}"
                found[part.name] = (what, f"{low:.4g}..{high:.4g}", seen, part.frame)
        return found

    def save(self, path: Path) -> None:
        """Write the quantiles as JSON (the layout is a file of its own)."""
        write_text(path, json.dumps(self._quantiles(), indent=1) + "\n")

    def fingerprint(self) -> str:
        """Short hash of the statistics, for manifests and the server's hand-shake."""
        return hashlib.sha256(json.dumps(self._quantiles()).encode()).hexdigest()[:16]

    def _quantiles(self) -> dict[str, list[float]]:
        names = ("state_q01", "state_q99", "action_q01", "action_q99")
        return {name: [float(x) for x in getattr(self, name)] for name in names}


def load_normalizer(path: Path, layout: Layout) -> Normalizer:
    """Read what ``Normalizer.save`` wrote. Raises FileNotFoundError or ValueError naming what is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no statistics; run `xwam stats DATASET` and keep the file there.")
    stored = json.loads(path.read_text())
    widths = {"state": layout.state_width, "action": layout.action_width}
    arrays = {}
    for name in ("state_q01", "state_q99", "action_q01", "action_q99"):
        if name not in stored:
            raise ValueError(f"{path} lacks {name}: run `xwam stats DATASET` again.")
        arrays[name] = np.asarray(stored[name], dtype=np.float64)
        width = widths[name.split("_")[0]]
        if arrays[name].shape != (width,) or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path} {name} has shape {arrays[name].shape}: must be {width} finite numbers.")
    return Normalizer(layout=layout, **arrays)


def _scale(parts: tuple[Part, ...], q01: np.ndarray, q99: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half span per slot (times the part's sign): normalised = (value - centre) / half_span."""
    scaling = np.repeat([p.scaling for p in parts], [p.size for p in parts])
    sign = np.repeat([p.sign for p in parts], [p.size for p in parts])
    largest = np.maximum(np.abs(q01), np.abs(q99))
    low = np.select([scaling == "quantile", scaling == "symmetric"], [q01, -largest], default=-1.0)
    high = np.select([scaling == "quantile", scaling == "symmetric"], [q99, largest], default=1.0)
    half_span = np.maximum(high - low, SMALLEST_SPAN) / 2
    return low + half_span, half_span * sign


def _forward(values: np.ndarray, centre: np.ndarray, half_span: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, (values.astype(np.float64) - centre) / half_span, 0.0).astype(np.float32)


def _backward(values: np.ndarray, centre: np.ndarray, half_span: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, values.astype(np.float64) * half_span + centre, 0.0).astype(np.float32)
