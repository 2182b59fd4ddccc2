"""Does the calibration fit the pictures and the states? Lenses with a middle elsewhere, cameras that see no hand."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from xwam.check.data_subject import Finding, Subject
from xwam.records import Camera
from xwam.robot.layout import used_slices
from xwam.view.points import project

ASIDE = 0.25  # of the picture's size: a lens's middle is nearer to the picture's
MOST_LOST = 0.5  # of all frames


def check_cameras(subject: Subject) -> Iterator[Finding]:
    """Intrinsics against the size of the pictures, poses against where the hands are."""
    quiet, hands = True, _hands(subject)
    for camera in subject.episodes.cameras:
        findings = [finding for finding in (_check_lens(camera), _check_pose(camera, hands)) if finding is not None]
        quiet &= not findings
        yield from findings
    count = sum(camera.is_calibrated for camera in subject.episodes.cameras)
    if quiet and count:
        yield Finding("fine", "calibration", f"of {count} cameras: lenses fit the pictures, hands are where they look")


def _check_lens(camera: Camera) -> Finding | None:
    """The principal point lies in the picture, near its middle; elsewhere the numbers are of other pictures."""
    if camera.intrinsics is None:
        return None
    size = np.array([camera.width, camera.height])
    middle = camera.intrinsics[:2, 2]
    aside = float(np.abs(middle / size - 0.5).max())
    if aside <= ASIDE:
        return None
    is_inside = bool(((middle >= 0) & (middle <= size)).all())
    place = "far from the middle" if is_inside else "outside"
    words = f"(cx, cy) = ({middle[0]:.4g}, {middle[1]:.4g}) lies {place} of its {camera.width} x {camera.height} pixels"
    advice = "points land in wrong places; intrinsics must be those of the pictures as stored, in pixels"
    return Finding("look" if is_inside else "wrong", f"lens of {camera.name!r}", f"{words}: {advice}")


def _check_pose(camera: Camera, hands: Float[np.ndarray, "arms N 3"]) -> Finding | None:
    """A camera that stands still sees some hand, most of the time."""
    if camera.base_from_camera is None or camera.intrinsics is None or not hands.size:
        return None
    is_before, is_seen = _seen_by(camera, hands)
    count, lost, behind = hands.shape[1], int((~is_seen).sum()), int((~is_before).sum())
    if lost <= MOST_LOST * count:
        return None
    words = f"sees no hand in {lost} of {count} frames ({behind} of them: behind it), if the calibration is right"
    advice = "base_from_camera maps camera to base, not base to camera; metres; x right, y down, z forward"
    return Finding("look", f"pose of {camera.name!r}", f"{words}: {advice}")


def _hands(subject: Subject) -> Float[np.ndarray, "arms N 3"]:
    """Where the hands are in all states, in metres."""
    slots = [where for _, where in used_slices(subject.episodes.layout.state, "position")]
    if not slots or not subject.motions:
        return np.zeros((0, 0, 3))
    state = np.concatenate([motion.state for motion in subject.motions])
    return np.stack([state[:, where] for where in slots])


def _seen_by(
    camera: Camera, hands: Float[np.ndarray, "arms N 3"]
) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """In which states some hand is before the camera, and in its picture."""
    assert camera.base_from_camera is not None
    assert camera.intrinsics is not None
    pose = camera.base_from_camera
    points = (hands - pose[:3, 3]) @ pose[:3, :3]  # camera_from_base
    is_before = points[..., 2] > 0
    pixels = project(np.where(is_before[..., None], points, (0.0, 0.0, 1.0)), camera.intrinsics)
    is_inside = ((pixels >= 0) & (pixels <= [camera.width, camera.height])).all(axis=-1)
    return np.any(is_before, axis=0), np.any(is_before & is_inside, axis=0)
