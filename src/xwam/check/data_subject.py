"""What the checks of a data set share: the data set as they see it, and how they say what they found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.data.clips import evenly_spaced
from xwam.data.lerobot import LeRobotEpisodes
from xwam.data.opening import open_recorded
from xwam.data.recorded import RecordedEpisodes
from xwam.robot.layout import Layout, layout_slices
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig

Level = Literal["wrong", "look", "fine"]  # fix it; a person should look; nothing found
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
        if found == {episodes.row(number).length} and not unread_places(explained, columns):
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


def unread_places(robot: RobotConfig, columns: Mapping[str, np.ndarray]) -> list[str]:
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


def finding_of(check: str, bad: Sequence[str], good: str, advice: str) -> Finding:
    """Wrong, with the first few places, when any is listed."""
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
