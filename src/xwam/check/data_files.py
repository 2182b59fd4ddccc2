"""Find the silent mistakes of a data set in seconds, before any weights load.

In: a LeRobot data set or HDF5 files, and the robot.json that explains them (our own need none). Out: findings, each
with what is wrong and what to do. Numbers are read from the files as they are, so that a damaged file is described, not
merely refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.data.clips import evenly_spaced
from xwam.data.hdf5_read import Hdf5Episodes
from xwam.data.lerobot import LeRobotEpisodes
from xwam.data.lerobot_format import DEMONSTRATED
from xwam.data.lerobot_index import column_names, read_columns, read_info
from xwam.data.opening import open_recorded
from xwam.data.recorded import RecordedEpisodes
from xwam.data.videos import num_frames
from xwam.files import Recent
from xwam.robot.layout import Layout, layout_slices, same_rate
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig

Level = Literal["wrong", "look", "fine"]  # fix it; a person should look; nothing found
SLACK = 0.01  # share by which a rate or a time may be off
LISTED = 3  # places named per finding
OTHER_ORDER = {"quat_wxyz": "quat_xyzw", "quat_xyzw": "quat_wxyz"}


class Finding(NamedTuple):
    """One line of the report."""

    level: Level
    check: str
    text: str


class Motion(NamedTuple):
    """One episode's numbers: columns as stored, states and actions as training would see them."""

    episode: int
    columns: dict[str, np.ndarray]
    state: Float[np.ndarray, "N Ds"]
    action: Float[np.ndarray, "M Da"]


class Subject(NamedTuple):
    """A data set as the checks see it. ``is_declared``: somebody wrote its robot.json."""

    episodes: RecordedEpisodes
    robot: RobotConfig
    is_declared: bool
    motions: list[Motion]
    names: dict[str, list[str]]  # of the slots of each column, where the data set has them


def open_subject(root: Path, robot: RobotConfig | None, most: int) -> Subject:
    """Open a data set and read the numbers of at most so many episodes; those that are not whole stay out."""
    episodes = open_recorded(root, robot=robot)
    explained = robot or robot_of_layout(episodes.layout, episodes)
    motions = []
    for number in evenly_spaced(episodes.num_episodes, most):
        columns = episodes.columns(number)
        found = {len(rows) for rows in columns.values()}
        if found == {episodes.row(number).length} and not _unread(explained, columns):
            state, action = episodes.reading.states_and_actions(columns)
            motions.append(Motion(number, columns, state.astype(np.float64), action.astype(np.float64)))
    names = {}
    if isinstance(episodes, LeRobotEpisodes):
        names = {key: _slot_names(episodes.facts["features"][key]) for key in episodes.reading.keys}
    return Subject(episodes, explained, robot is not None, motions, names)


def robot_of_layout(layout: Layout, episodes: RecordedEpisodes) -> RobotConfig:
    """The robot.json of a data set whose columns are a layout's own vectors."""
    sides: dict[str, list[PartSource]] = {"observation.state": [], "action": []}
    for key, parts in (("observation.state", layout.state), ("action", layout.action)):
        for part, where in layout_slices(parts):
            arm, _, what = part.name.rpartition("_")
            if not part.is_used or what not in ("position", "rotation", "gripper", "joints"):
                sides[key].append(PartSource(what="joints", arm=part.name, key=None, size=part.size))  # slots stay free
                continue
            is_change = part.kind.startswith("delta_")
            rest: dict[str, Any] = {"reference": "delta" if is_change else "absolute"}
            if part.kind == "gripper_command":
                rest |= {"closed": -1.0}
            if what == "joints":
                rest |= {"size": part.size, "unit": part.unit}
            if what == "rotation" and is_change:
                rest |= {"form": "axis_angle"}
            sides[key].append(PartSource(what=what, arm=arm, key=key, start=where.start, **rest))
    cameras = [CameraSource(name=view.camera.name, key=view.source.key) for view in episodes.reading.views]
    return RobotConfig(
        name=layout.name,
        action_hz=episodes.action_hz,
        state=tuple(sides["observation.state"]),
        action=tuple(sides["action"]),
        cameras=tuple(cameras),
        state_width=layout.state_width,
        action_width=layout.action_width,
    )


def check_files(root: Path, robot: RobotConfig | None) -> Iterator[Finding]:
    """Frame counts, gaps in time, rates, NaN: what a reader stumbles over."""
    episodes = open_recorded(root, robot=robot)
    if isinstance(episodes, LeRobotEpisodes):
        yield from _check_rows(episodes, read_info(root))
        yield from _check_videos(episodes)
    elif isinstance(episodes, Hdf5Episodes):
        yield from _check_groups(episodes)
    yield from _check_missing(episodes)
    yield from _check_numbers(episodes, robot or robot_of_layout(episodes.layout, episodes))
    yield _check_demonstrations(episodes)


def _check_rows(episodes: LeRobotEpisodes, info: dict[str, Any]) -> Iterator[Finding]:
    """As many rows as meta/episodes says, numbered without gaps, at even times."""
    short, gaps, times = [], [], []
    files = Recent[dict[int, dict[str, np.ndarray]]]()
    for number in range(episodes.num_episodes):
        row = episodes.row(number)
        clock = files.get(row.data, _clocks).get(number, {})
        found = len(next(iter(clock.values()))) if clock else len(next(iter(episodes.columns(number).values())))
        if found != row.length:
            short.append(f"episode {number} has {found} rows of {row.length}")
        if "frame_index" in clock and (np.diff(clock["frame_index"][:, 0]) != 1).any():
            place = int(np.flatnonzero(np.diff(clock["frame_index"][:, 0]) != 1)[0])
            gaps.append(f"episode {number} after frame {place}")
        if "timestamp" in clock and len(clock["timestamp"]) > 1:
            steps = np.diff(clock["timestamp"][:, 0].astype(np.float64)) * info["fps"]
            if np.abs(steps - 1).max() > 0.5:
                gaps.append(f"episode {number} after frame {int(np.abs(steps - 1).argmax())} (time)")
            times.append(float(np.median(steps)))
    yield _finding("frame counts", short, "every episode has its rows", "copy the data set again or leave them out")
    yield _finding("gaps", gaps, "frames follow without gaps", "cut the episodes there, or record again")
    rate = float(np.median(times)) if times else 1.0
    if several := episodes.with_several_tasks:
        text = f"{len(several)} episodes have several tasks, such as {several[0]}: all of it gets the first one's words"
        yield Finding("look", "words", f"{text}; cut such episodes into one per task")
    slow = [f"frames are {rate / info['fps']:.4g} s apart: {info['fps'] / rate:.4g} per second, not {info['fps']}"]
    yield _finding(
        "fps",
        slow if abs(rate - 1) > SLACK else [],
        f"{info['fps']} frames per second",
        "correct fps in meta/info.json",
    )


def _clocks(path: Path) -> dict[int, dict[str, np.ndarray]]:
    there = column_names(path)
    return read_columns(path, [name for name in ("frame_index", "timestamp") if name in there])


def _check_videos(episodes: LeRobotEpisodes) -> Iterator[Finding]:
    """Videos hold as many frames as there are rows, at the data set's rate. Nothing is decoded."""
    ends: dict[Path, tuple[float, int]] = {}  # of each file: where its last episode begins, and how long that is
    for number in range(episodes.num_episodes):
        row = episodes.row(number)
        for place in row.videos.values():
            ends[place.path] = max(ends.get(place.path, (0.0, 0)), (place.first_s, row.length))
    short, rates = [], []
    for path, (first_s, length) in ends.items():
        count, rate = num_frames(path, episodes.fps)
        name, needed = path.relative_to(episodes.root), round(first_s * rate) + length
        if count < needed:
            short.append(f"{name} has {count} frames of {needed}")
        if not same_rate(float(rate), float(episodes.fps)):
            rates.append(f"{name} runs at {rate:g} fps, the data set at {episodes.fps:g}")
    yield _finding("video frames", short, "every row has its picture", "encode or copy these videos again")
    yield _finding("video fps", rates, "videos run at the data set's rate", "encode them again at that rate")


def _check_groups(episodes: Hdf5Episodes) -> Iterator[Finding]:
    """Every row has its pictures; many files should not all have the same words."""
    short = []
    for number in range(episodes.num_episodes):
        row = episodes.row(number)
        for key, is_needed in episodes.picture_keys().items():
            found = episodes.count(number, key)
            if found < row.length and (found or is_needed):
                short.append(
                    f"episode {number} ({row.data.name}{row.group}) has {found} rows of {key!r}, not {row.length}"
                )
    yield _finding("frame counts", short, "every row has its picture", "copy the files again or leave them out")
    files, words = {row.data for row in episodes.rows}, {row.instruction for row in episodes.rows}
    if 1 < len(files) < episodes.num_episodes and len(words) == 1:
        text = f"all {len(files)} files, which hold many episodes each, say {min(words)!r}: are they one task?"
        yield Finding("look", "words", text)


def _check_missing(episodes: RecordedEpisodes) -> Iterator[Finding]:
    """Cameras that some episodes lack."""
    numbers = range(episodes.num_episodes)
    optional = [view.camera.name for view in episodes.reading.views if view.source.may_be_missing]
    missing = {name: sum(not episodes.has_pictures(number, name) for number in numbers) for name in optional}
    if any(missing.values()):
        words = ", ".join(f"{name} in {count} of {len(numbers)}" for name, count in missing.items() if count)
        yield Finding("look", "missing cameras", f"{words} episodes; grey pictures that never train stand for them")


def _check_numbers(episodes: RecordedEpisodes, robot: RobotConfig) -> Iterator[Finding]:
    bad = [
        f"episode {number} {place}"
        for number in range(episodes.num_episodes)
        for place in _unread(robot, episodes.columns(number))
    ]
    yield _finding("NaN", bad, "every number is finite, no rotation is all zeros", "drop these frames or episodes")


def _unread(robot: RobotConfig, columns: Mapping[str, np.ndarray]) -> list[str]:
    """The first frame of each column that holds no number, or zeros where a quaternion should be."""
    bad = []
    for key, rows in columns.items():
        if not np.isfinite(rows).all():
            frame, slot = np.argwhere(~np.isfinite(rows))[0].tolist()
            bad.append(f"frame {frame} slot {slot} of {key!r}")
    for part in (*robot.state, *robot.action):
        rows = columns.get(part.key or "", np.zeros((0, 0)))
        if part.form in OTHER_ORDER and part.what == "rotation" and len(rows):
            zeros = np.flatnonzero(~rows[:, part.start : part.stop].any(axis=1))
            bad += [f"frame {frame} slots {part.start}..{part.stop - 1} of {part.key!r}" for frame in zeros[:1]]
    return bad


def _check_demonstrations(episodes: RecordedEpisodes) -> Finding:
    """How much of it teaches how to act."""
    marks = [episodes.demonstrated(number) for number in range(episodes.num_episodes)]
    lengths = [episodes.length(number) for number in range(episodes.num_episodes)]
    counts = [n if mark is None else int(mark.sum()) for mark, n in zip(marks, lengths, strict=True)]
    words = f"{np.count_nonzero(counts)} of {len(counts)} episodes, {sum(counts)} of {sum(lengths)} actions"
    is_named = not isinstance(episodes, LeRobotEpisodes) or DEMONSTRATED in episodes.facts["features"]
    if not is_named and DEMONSTRATED in column_names(episodes.row(0).data):
        why = f"the files have a column {DEMONSTRATED}, meta/info.json does not name it, so it is not read"
        return Finding("look", "demonstrations", f"{words}: {why}")
    if not any(counts):
        return Finding("look", "demonstrations", f"{words}: it teaches what follows from actions, not how to act")
    return Finding("fine", "demonstrations", words)


def _finding(check: str, bad: Sequence[str], good: str, advice: str) -> Finding:
    """Wrong when anything is listed."""
    if not bad:
        return Finding("fine", check, good)
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return Finding("wrong", check, f"{'; '.join(bad[:LISTED])}{more}: {advice}")


def _slot_names(feature: dict[str, Any]) -> list[str]:
    """Names of a column's slots, as LeRobot stores them: a list, or lists in a dictionary."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [])]
    return [str(name) for name in names or []]
