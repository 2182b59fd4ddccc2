"""Numbers for images, depth maps, actions and success. numpy in, numbers out; nothing is averaged behind your back.

Images are uint8 RGB, depth is in metres with 0 = unknown. Image functions give one number per image, so that a
caller sees how fast imagination decays over the horizon: average over views, keep the axis of time. As in the
X-WAM paper (arXiv 2604.26694), pixel and depth numbers of a system are taken over its static cameras only.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import correlate1d

from xwam.records import Camera
from xwam.robot.layout import GRIPPER_ACTIONS, JOINT_ACTIONS, Layout, layout_slices

PSNR_LIMIT_DB = 100.0  # equal images: the formula says infinity, which no mean survives
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MOVING_LEVELS = 16  # a pixel moved when a channel differs from the first frame by more than this many of 255 levels
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
LPIPS_BATCH = 8


class DepthScores(NamedTuple):
    """How well a depth map fits a reference, over the pixels that both know."""

    abs_rel: float
    rmse_m: float
    delta1: float
    delta2: float
    delta3: float
    coverage: float  # share of the reference's known pixels that the prediction knows: no gain from leaving out


class ActionScores(NamedTuple):
    """Mean error of a chunk of actions, over steps and the arms in use; None where the layout has no such part."""

    position_m: float | None
    rotation_rad: float | None
    gripper: float | None
    command: float | None  # moves and turns as a controller's own commands
    joints_rad: float | None  # where they shall go, or how far
    joints_m: float | None  # the same of those that slide


def static_views(cameras: Sequence[Camera]) -> list[int]:
    """Which views stand still (everything but wrist cameras); all of them where none does."""
    static = [i for i, camera in enumerate(cameras) if camera.is_static]
    return static or list(range(len(cameras)))


# --- images -----------------------------------------------------------------------------------------------------


def psnr(
    image: UInt8[np.ndarray, "*any H W 3"], reference: UInt8[np.ndarray, "*any H W 3"]
) -> Float[np.ndarray, "*any"]:
    """Peak signal-to-noise ratio in dB: ``10 log10(255^2 / MSE)`` per image; equal images give PSNR_LIMIT_DB."""
    check_same_shape(image, reference)
    squared = (image.astype(np.float64) - reference) ** 2
    return _decibel(squared.mean(axis=(-3, -2, -1)))


def moving_psnr(
    video: UInt8[np.ndarray, "*views T H W 3"], reference: UInt8[np.ndarray, "*views T H W 3"]
) -> Float[np.ndarray, "*views T"]:
    """PSNR over the pixels where the reference left its first frame; NaN in frames where nothing moved.

    Most of a robot's image stands still, so plain PSNR rewards a frozen picture; this one does not.
    """
    check_same_shape(video, reference)
    mask = moving_pixels(reference)
    squared = ((video.astype(np.float64) - reference) ** 2).mean(axis=-1)
    count = mask.sum(axis=(-2, -1))
    mean = np.where(mask, squared, 0).sum(axis=(-2, -1)) / np.maximum(count, 1)
    return np.where(count > 0, _decibel(mean), np.nan)


def moving_pixels(reference: UInt8[np.ndarray, "*views T H W 3"]) -> Bool[np.ndarray, "*views T H W"]:
    """True where a pixel differs from the first frame by more than MOVING_LEVELS in any channel."""
    change = np.abs(reference.astype(np.int16) - reference[..., :1, :, :, :].astype(np.int16))
    return change.max(axis=-1) > MOVING_LEVELS


def copy_last_frame(video: UInt8[np.ndarray, "*views T H W 3"]) -> UInt8[np.ndarray, "*views T H W 3"]:
    """The baseline every imagined video must beat: the last frame seen (``video[..., 0]``), again and again."""
    return np.broadcast_to(video[..., :1, :, :, :], video.shape).copy()


def ssim(
    image: UInt8[np.ndarray, "*any H W 3"], reference: UInt8[np.ndarray, "*any H W 3"]
) -> Float[np.ndarray, "*any"]:
    """Structural similarity per image, mean over the channels and over all windows that lie inside the image.

    ``(2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))`` in Gaussian windows of 11 pixels,
    sigma 1.5, K1 = 0.01, K2 = 0.03 (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004, eq. 13).
    """
    check_same_shape(image, reference)
    height, width = image.shape[-3:-1]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"image is {width} x {height} pixels: SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW}.")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    total = (mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    return (similar / total).mean(axis=(-3, -2, -1))


def lpips(image: UInt8[np.ndarray, "N H W 3"], reference: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, " N"]:
    """Learned perceptual distance per image (Zhang et al., CVPR 2018, arXiv 1801.03924, eq. 1); 0 is equal.

    ``sum_l mean_hw |w_l (f_l(x) - f_l(y))|^2`` over five layers of AlexNet, features of unit length, learned weights w.
    Raises what ``lpips_missing`` says.
    """
    check_same_shape(image, reference)
    network = _lpips_network()
    x, y = (torch.from_numpy(v).movedim(-1, 1).float() / 127.5 - 1 for v in (image, reference))
    with torch.no_grad():
        pairs = zip(x.split(LPIPS_BATCH), y.split(LPIPS_BATCH), strict=True)
        return torch.cat([network(a, b).flatten() for a, b in pairs]).double().numpy()


def lpips_missing() -> str | None:
    """Why LPIPS cannot be computed here, in words with the remedy; None when it can. Nothing is ever downloaded."""
    try:
        _lpips_network()
    except (ImportError, FileNotFoundError) as error:
        return str(error)
    return None


@cache
def _lpips_network() -> torch.nn.Module:
    try:
        import lpips as package  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("LPIPS needs the packages lpips and torchvision: pip install 'xwam[lpips]'") from error
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if not weights.is_file():
        raise FileNotFoundError(
            f"path={weights}: LPIPS needs AlexNet's weights, which are not here; on a machine with network run "
            "`python -c 'import torchvision; torchvision.models.alexnet(weights=\"IMAGENET1K_V1\")'` "
            "and copy the file to that path."
        )
    return package.LPIPS(net="alex", verbose=False).eval()


# --- depth ------------------------------------------------------------------------------------------------------


def depth_scores(depth_m: Float[np.ndarray, "*any"], reference_m: Float[np.ndarray, "*any"]) -> DepthScores:
    """Depth errors over the pixels known (> 0) in both; all NaN but ``coverage`` where there is none.

    ``coverage``: the share of the reference's known pixels that the prediction knows; NaN where it knows none.

    With prediction d and reference g: AbsRel = mean |d - g| / g, RMSE = sqrt(mean (d - g)^2), delta_k = share of
    max(d/g, g/d) < 1.25^k (Eigen, Puhrsch, Fergus, NeurIPS 2014, arXiv 1406.2283, section 4.1).
    """
    check_same_shape(depth_m, reference_m)
    known = _known_in_both(depth_m, reference_m)
    num_known = int((reference_m > 0).sum())
    coverage = float(known.sum() / num_known) if num_known else float("nan")
    d, g = depth_m[known].astype(np.float64), reference_m[known].astype(np.float64)
    if not len(d):
        return DepthScores(*[float("nan")] * 5, coverage=coverage)
    ratio = np.maximum(d / g, g / d)
    return DepthScores(
        abs_rel=float(np.mean(np.abs(d - g) / g)),
        rmse_m=float(np.sqrt(np.mean((d - g) ** 2))),
        delta1=float(np.mean(ratio < 1.25)),
        delta2=float(np.mean(ratio < 1.25**2)),
        delta3=float(np.mean(ratio < 1.25**3)),
        coverage=coverage,
    )


def aligning_scale(depth_m: Float[np.ndarray, "*any"], reference_m: Float[np.ndarray, "*any"]) -> float:
    """The factor that brings a depth map to the reference's scale: ``median(g) / median(d)`` over common pixels.

    For scores with scale alignment: ``depth_scores(aligning_scale(d, g) * d, g)`` (Zhou, Brown, Snavely, Lowe,
    CVPR 2017, arXiv 1704.07813, section 4.1). NaN where no pixel is known in both.
    """
    check_same_shape(depth_m, reference_m)
    known = _known_in_both(depth_m, reference_m)
    return float(np.median(reference_m[known]) / np.median(depth_m[known])) if known.any() else float("nan")


# --- actions, success -------------------------------------------------------------------------------------------


def action_scores(
    action: Float[np.ndarray, "Ta Da"], reference: Float[np.ndarray, "Ta Da"], layout: Layout
) -> ActionScores:
    """Mean distance per step of displacement, rotation vector, gripper and joints; raw commands by themselves."""
    check_same_shape(action, reference)
    layout.check_action(action)
    layout.check_action(reference)
    found: dict[str, list[float]] = {"m": [], "rad": [], "gripper": [], "1": [], "joints rad": [], "joints m": []}
    for part, where in layout_slices(layout.action):
        what = "gripper" if part.kind in GRIPPER_ACTIONS else part.unit
        if part.kind in JOINT_ACTIONS and part.unit != "1":
            what = f"joints {part.unit}"
        if part.is_used:
            difference = action[:, where].astype(np.float64) - reference[:, where]
            found[what].append(float(np.linalg.norm(difference, axis=-1).mean()))
    return ActionScores(*(float(np.mean(errors)) if errors else None for errors in found.values()))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true success rate lies: Wilson's score interval (JASA 22(158), 1927); (0, 1) without a trial.

    Centre ``(p + z^2/2n) / (1 + z^2/n)``, half width ``z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)``.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes={successes}, trials={trials}: need 0 <= successes <= trials.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must lie between 0 and 1, for example 0.95.")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * np.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / shrink
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def _decibel(mean_squared: np.ndarray) -> np.ndarray:
    smallest = 255.0**2 / 10 ** (PSNR_LIMIT_DB / 10)
    return 10 * np.log10(255.0**2 / np.maximum(mean_squared, smallest))


def _blurred(images: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean in every window that lies inside the image."""
    offset = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    window /= window.sum()
    inside = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))
    rows = correlate1d(images, window, axis=-3)[..., inside, :, :]
    return correlate1d(rows, window, axis=-2)[..., inside, :]


def _known_in_both(depth_m: np.ndarray, reference_m: np.ndarray) -> np.ndarray:
    return (depth_m > 0) & (reference_m > 0) & np.isfinite(depth_m) & np.isfinite(reference_m)


def check_same_shape(values: np.ndarray, reference: np.ndarray) -> None:
    """Refuse to compare arrays of different shapes."""
    if values.shape != reference.shape:
        raise ValueError(f"shapes {values.shape} and {reference.shape} differ: cut or resize both to the same first.")
