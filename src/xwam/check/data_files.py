"""Are the files of a data set whole? Frame counts, gaps in time, rates, numbers that are none.

Numbers are read from the files as they are, so that a damaged file is described, not merely refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xwam.check.data_subject import LISTED, Finding, finding_of, robot_of_layout, unread_places
from xwam.data.hdf5_index import opened_episode, rate_of
from xwam.data.hdf5_read import Hdf5Episodes
from xwam.data.hdf5_words import words_of
from xwam.data.lerobot import LeRobotEpisodes
from xwam.data.lerobot_format import DEMONSTRATED
from xwam.data.lerobot_index import column_names, read_columns, read_info
from xwam.data.opening import open_recorded
from xwam.data.recorded import RecordedEpisodes
from xwam.data.videos import num_frames
from xwam.files import Recent
from xwam.robot.layout import same_rate
from xwam.robot.robot_json import RobotConfig

SLACK = 0.01  # share by which a rate or a time may be off


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
    yield finding_of("frame counts", short, "every episode has its rows", "copy the data set again or leave them out")
    yield finding_of("gaps", gaps, "frames follow without gaps", "cut the episodes there, or record again")
    rate = float(np.median(times)) if times else 1.0
    if several := episodes.with_several_tasks:
        text = f"{len(several)} episodes have several tasks, such as {several[0]}: all of it gets the first one's words"
        yield Finding("look", "words", f"{text}; cut such episodes into one per task")
    slow = [f"frames are {rate / info['fps']:.4g} s apart: {info['fps'] / rate:.4g} per second, not {info['fps']}"]
    yield finding_of(
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
    yield finding_of("video frames", short, "every row has its picture", "encode or copy these videos again")
    yield finding_of("video fps", rates, "videos run at the data set's rate", "encode them again at that rate")


def _check_groups(episodes: Hdf5Episodes) -> Iterator[Finding]:
    """Every row has its pictures; the rate, if a file says it; many files should not all have the same words."""
    short = []
    for number in range(episodes.num_episodes):
        row = episodes.row(number)
        for key, is_needed in episodes.picture_keys().items():
            found = episodes.count(number, key)
            if found < row.length and (found or is_needed):
                short.append(
                    f"episode {number} ({row.data.name}{row.group}) has {found} rows of {key!r}, not {row.length}"
                )
    yield finding_of("frame counts", short, "every row has its picture", "copy the files again or leave them out")
    yield _check_rate(episodes)
    files, words = {row.data for row in episodes.rows}, {row.instruction for row in episodes.rows}
    if len(folders := _folders_without_words(episodes)) > 1:
        some = ", ".join(str(folder.relative_to(episodes.root)) for folder in folders[:LISTED])
        some += ", …" if len(folders) > LISTED else ""
        text = f"robot.json's instruction {episodes.reading.instruction!r} stands for {len(folders)} folders ({some})"
        advice = "several tasks then are one to the model: give each its own --data and robot.json, with its own words"
        yield Finding("look", "words", f"{text}: are they one task? {advice}")
    elif 1 < len(files) < episodes.num_episodes and len(words) == 1:
        text = f"all {len(files)} files, which hold many episodes each, say {min(words)!r}: are they one task?"
        yield Finding("look", "words", text)


def _check_rate(episodes: Hdf5Episodes) -> Finding:
    """HDF5 has no clock: where the files say no rate, nothing but robot.json does."""
    silent = [path.name for path in dict.fromkeys(row.data for row in episodes.rows) if rate_of(path) is None]
    if not silent:
        return Finding("fine", "fps", f"{episodes.fps:g} frames per second, as the files say")
    who = "the files name" if len(silent) > 1 else f"{silent[0]} names"
    text = f"{who} no rate; robot.json says {episodes.fps:g} frames per second, and so will it be played"
    return Finding("look", "fps", f"{text}: at another rate than the recording's the robot moves faster or slower")


def _folders_without_words(episodes: Hdf5Episodes) -> list[Path]:
    """The folders with episodes that have no words of their own: robot.json's instruction fills in."""
    found = dict[Path, None]()
    for number, row in enumerate(episodes.rows):
        if row.data.parent in found or row.instruction != episodes.reading.instruction:
            continue
        with opened_episode(row) as group:
            if words_of(group, row.data, number) is None:
                found[row.data.parent] = None
    return list(found)


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
        for place in unread_places(robot, episodes.columns(number))
    ]
    yield finding_of("NaN", bad, "every number is finite, no rotation is all zeros", "drop these frames or episodes")


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
