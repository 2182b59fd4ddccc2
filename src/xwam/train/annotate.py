"""Depth where nobody measured any: a teacher's guesses, brought to the scale of whatever was measured.

Per episode and camera, the reference is, in this order: depth that the same camera measured in other episodes; depth
that another calibrated camera measured at the same moments, seen from this one; nothing, and then the teacher must
answer in metres. What was found stands in ``provenance.json`` (data/annotated.py). Whole episodes are kept whenever the
work is interrupted; repeat it to continue.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from tqdm import tqdm

from xwam.data import lerobot_format as form
from xwam.data.annotated import Provenance, Scale, other_pictures, pictures_of
from xwam.data.clips import evenly_spaced
from xwam.data.episodes import camera_named
from xwam.data.recorded import RecordedEpisodes
from xwam.files import fingerprint
from xwam.model.depth_teacher import Alignment, DepthTeacher, fit_alignment, to_metres
from xwam.records import Camera
from xwam.view.points import camera_poses, project, unproject

REFERENCE_FRAMES = 6  # per episode (another camera) or in all (other episodes)


def annotate_depth(
    episodes: RecordedEpisodes,
    teacher: DepthTeacher,
    *,
    weights: str,
    cameras: Sequence[str] = (),
    rebuild: bool = False,
    progress: bool = True,
) -> int:
    """Add depth to these cameras (all by default) wherever none was measured; returns the number of new episodes.

    ``episodes`` must be read frame by frame; ``weights``: hash of the teacher's files. Raises ValueError when another
    teacher was at work before (unless ``rebuild``), or when no scale can be found.
    """
    if episodes.reading.every != 1:
        raise ValueError(f"frames_per_action={episodes.reading.every}: depth is added to every frame; open it with 1.")
    names = list(cameras) or [camera.name for camera in episodes.cameras]
    todo = []
    for name in names:
        origin = _origin(teacher, weights, episodes, name)
        _check_origin(episodes, name, origin, rebuild)
        for number in range(episodes.num_episodes):
            is_there = episodes.has_measured_depth(number, name) or episodes.annotated.has(episodes.label(number), name)
            if not is_there and episodes.has_pictures(number, name):
                todo.append((name, number, origin))
    own = {name: list(_own_pairs(episodes, teacher, name)) for name in {name for name, *_ in todo}}
    for name, number, origin in tqdm(todo, desc="depth", unit="episode", disable=not progress):
        frames = episodes.frames(number, name, np.arange(episodes.length(number)))
        assert frames is not None
        estimate = teacher.estimate(frames)
        how = find_scale(episodes, teacher, number, name, estimate, own[name])
        depth = to_metres(estimate, teacher.kind, Alignment(how.scale, how.shift), far_m=origin.far_m)
        episodes.annotated.write(episodes.label(number), name, depth, round(episodes.fps), origin, how)
    return len(todo)


def find_scale(
    episodes: RecordedEpisodes,
    teacher: DepthTeacher,
    number: int,
    name: str,
    estimate: Float32[np.ndarray, "N H W"],
    own: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Scale:
    """How an episode's estimates become metres. Raises ValueError for relative ones without any reference.

    ``own``: estimates and measurements of the same camera, from episodes in which it measured.
    """
    for words, pairs in (
        ("the same camera in other episodes", own),
        ("another camera of the episode", _other_pairs(episodes, number, name, estimate)),
    ):
        found = list(pairs)
        measured = np.concatenate([m.ravel() for _, m in found]) if found else np.zeros(0)
        if (measured > 0).sum() >= 2:
            guessed = np.concatenate([e.ravel() for e, _ in found])
            fitted = fit_alignment(guessed, measured, teacher.kind)
            return Scale(reference=words, **fitted._asdict())
    if teacher.kind == "relative":
        raise ValueError(
            f"camera={name!r} episode={number}: teacher {teacher.name!r} answers up to a scale, and no depth was "
            "measured to fit it to; take a metric teacher, or calibrate this camera and one that measures depth."
        )
    return Scale(reference="none")


def seen_from(
    depth_m: Float[np.ndarray, "H W"],
    camera: Camera,
    base_from_camera: Float[np.ndarray, "4 4"],
    other: Camera,
    base_from_other: Float[np.ndarray, "4 4"],
) -> Float32[np.ndarray, "h w"]:
    """One camera's measured depth as another camera would have it: the nearest point of each pixel, 0 where none is."""
    assert camera.intrinsics is not None
    assert other.intrinsics is not None
    points = unproject(depth_m.astype(np.float64), camera.intrinsics, camera.depth_at)[depth_m > 0]
    other_from_camera = np.linalg.inv(base_from_other) @ base_from_camera
    there = points @ other_from_camera[:3, :3].T + other_from_camera[:3, 3]
    there = there[there[:, 2] > other.near_m]
    column, row = np.floor(project(there, other.intrinsics)).astype(int).T
    inside = (column >= 0) & (column < other.width) & (row >= 0) & (row < other.height)
    nearest = np.full((other.height, other.width), np.inf)
    np.minimum.at(nearest, (row[inside], column[inside]), there[inside, 2])
    return np.where(np.isfinite(nearest), nearest, 0).astype(np.float32)


def _own_pairs(episodes: RecordedEpisodes, teacher: DepthTeacher, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Estimates and measurements of the same camera, from episodes in which it measured."""
    measured = [n for n in range(episodes.num_episodes) if episodes.has_measured_depth(n, name)]
    for place in evenly_spaced(len(measured), REFERENCE_FRAMES) if measured else ():
        middle = np.array([episodes.length(measured[place]) // 2])
        frames, depth = (read(measured[place], name, middle) for read in (episodes.frames, episodes.depth))
        if frames is not None and depth is not None:
            yield teacher.estimate(frames), depth


def _other_pairs(
    episodes: RecordedEpisodes, number: int, name: str, estimate: Float32[np.ndarray, "N H W"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Estimates, and what other cameras measured at the same moments seen from this one."""
    target = camera_named(episodes.cameras, name)
    others = [c for c in episodes.cameras if c.name != name and episodes.has_measured_depth(number, c.name)]
    if not target.is_calibrated:
        return
    state, layout = episodes.info(number).state, episodes.layout
    for step in evenly_spaced(len(estimate), REFERENCE_FRAMES):
        for camera in (camera for camera in others if camera.is_calibrated):
            depth = episodes.depth(number, camera.name, np.array([step]))
            if depth is not None:
                poses = [camera_poses(one, state[step], layout) for one in (camera, target)]
                yield estimate[step], seen_from(depth[0], camera, poses[0], target, poses[1])


def _origin(teacher: DepthTeacher, weights: str, episodes: RecordedEpisodes, name: str) -> Provenance:
    camera = camera_named(episodes.cameras, name)
    coding = form.depth_coding(camera)
    return Provenance(
        teacher=teacher.name,
        kind=teacher.kind,
        weights=weights,
        near_m=camera.near_m,
        far_m=camera.far_m,
        coding=(coding.min_m, coding.max_m, coding.shift_m),
        **pictures_of(episodes.source(name)),
    )


def _check_origin(episodes: RecordedEpisodes, name: str, origin: Provenance, rebuild: bool) -> None:
    """Refuse to mix guesses of two teachers, of two ranges, or from other pictures, or such that were turned."""
    known = episodes.annotated.provenance(name)
    if known is None:
        return
    source = episodes.source(name)
    changed = other_pictures(known, source)
    if not changed and {**vars(known), **pictures_of(source), "episodes": {}} == vars(origin):
        return
    if not rebuild:
        raise ValueError(
            f"camera={name!r} has depth of teacher {known.teacher!r} (weights {known.weights}, {known.near_m:g} to "
            f"{known.far_m:g} m) beside {episodes.root}: this is {origin.teacher!r} (weights {origin.weights}, "
            f"{origin.near_m:g} to {origin.far_m:g} m){changed and f', of other pictures ({changed})'}; "
            "say rebuild to replace it."
        )
    episodes.annotated.forget(name)


def teacher_hash(folder: Path) -> str:
    """Short hash of a teacher's files."""
    return fingerprint(folder, [path for path in folder.rglob("*") if path.suffix in {".json", ".safetensors"}])
