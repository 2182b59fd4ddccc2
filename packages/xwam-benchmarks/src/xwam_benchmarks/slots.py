"""What a server's states and actions mean <-> what a benchmark's robot has and can do, part by part.

A server says its layout (``left_position``, ``left_rotation``, …) and, where its checkpoint has a ``robot.json``, in
which axes it was trained. Whatever a robot does not have is refused before anything moves.
"""

from __future__ import annotations

from typing import Any, Collection, Mapping, Sequence

import numpy as np
from xwam_client.agreement import MismatchError

Offered = Mapping[str, Collection[str]]  # a part's name, and what it can be (its ``kind``)


class Slots:
    """One vector of a server's layout: named values in, a row out, and back. Slots the robot lacks are 0."""

    def __init__(self, parts: Sequence[Mapping[str, Any]], offered: Offered, which: str) -> None:
        """Raises MismatchError for parts that are not ``offered``; ``which`` vector it is, for the message."""
        self.width = sum(part["size"] for part in parts)
        self.where: dict[str, slice] = {}
        start = 0
        for part in parts:
            stop = start + part["size"]
            if part["is_used"]:
                if part["kind"] not in offered.get(part["name"], ()):
                    has = ", ".join(f"{name} ({' or '.join(kinds)})" for name, kinds in offered.items())
                    raise MismatchError(
                        f"{which} part {part['name']!r} of kind {part['kind']!r}: this robot has {has}. "
                        "Nothing was moved: serve a checkpoint made for it."
                    )
                self.where[part["name"]] = slice(start, stop)
            start = stop

    def row(self, values: Mapping[str, Any]) -> np.ndarray:
        """The vector that these values make; those that it has no slots for are left out."""
        row = np.zeros(self.width)
        for name, where in self.where.items():
            row[where] = values[name]
        return row

    def values(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """The inverse of row, in float64."""
        return {name: np.asarray(row[where], dtype=np.float64) for name, where in self.where.items()}


class Axes:
    """The model's axes and the robot's: ``base_turn @ base_from_hand @ hand_turn`` is what the model knows."""

    def __init__(self, metadata: Mapping[str, Any], base_turn: Any = None, hand_turn: Any = None) -> None:
        """Those of the server's ``robot.json``; of a server without one those given, else the robot's own."""
        robot = metadata.get("robot") or {"base_turn": base_turn, "hand_turn": hand_turn}
        turns = (robot.get("base_turn"), robot.get("hand_turn"))
        self.base_turn, self.hand_turn = (np.eye(3) if turn is None else np.array(turn, dtype=float) for turn in turns)


def names_of_cameras(
    metadata: Mapping[str, Any], known: Collection[str], other_names: Mapping[str, str], told: Mapping[str, str]
) -> dict[str, str]:
    """The simulator's camera for each of the model's.

    ``known`` to the simulator; ``other_names`` and ``told`` (by the user, first): the model's name -> the simulator's.
    Raises MismatchError for a camera that is not known, naming all that are.
    """
    found: dict[str, str] = {}
    for camera in metadata["cameras"]:
        name = camera["name"]
        found[name] = told.get(name) or other_names.get(name, name)
        if found[name] not in known:
            raise MismatchError(
                f"camera={name!r}: the simulator has {', '.join(sorted(known))}; say which one it is "
                f"(--camera {name}=NAME; RoboTwin: cameras in deploy_policy.yml)."
            )
    return found
