"""Do server and robot mean the same? Their cameras, layouts and action rates are compared before anything moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xwam_client.protocol import PROTOCOL

COMPARED = ("name", "kind", "size", "unit", "frame", "is_used")  # of a part; its scaling is the model's own affair
COMPARED_UNUSED = ("name", "size", "is_used")  # of a part that the robot does not have


class MismatchError(ValueError):
    """Server and robot do not mean the same; nothing has moved."""


def offer_of(robot: Any) -> dict[str, Any]:
    """What a robot offers: anything with ``cameras`` (names), ``action_hz`` and ``layout``, as an ``Env`` has them.

    A layout and its parts are objects or maps. Raises ValueError when something is not there.
    """
    try:
        return {"cameras": list(robot.cameras), **_meaning(robot)}
    except (AttributeError, KeyError, TypeError) as why:
        raise ValueError(f"robot={type(robot).__name__}: cameras, action_hz or layout is not as needed: {why}") from why


def check(metadata: Mapping[str, Any], offer: dict[str, Any] | None) -> dict[str, Any] | None:
    """The offer itself. Raises MismatchError, naming everything in which it differs from what the server needs."""
    if metadata.get("protocol") != PROTOCOL:
        raise MismatchError(f"protocol={metadata.get('protocol')!r}: this client speaks {PROTOCOL!r}.")
    if offer is None:
        return None
    missing = [c["name"] for c in metadata["cameras"] if c["name"] not in offer["cameras"]]
    wrong = [f"cameras={offer['cameras']}: the model also needs {missing}"] if missing else []
    theirs = _meaning(metadata).items()
    wrong += [f"{key}={offer[key]!r}: the model has {its!r}" for key, its in theirs if offer.get(key, its) != its]
    if wrong:
        raise MismatchError(f"{'; '.join(wrong)}. Nothing was moved: use a checkpoint made for this robot.")
    return offer


def _meaning(side: Any) -> dict[str, Any]:
    """All that server and robot must agree on, by name."""
    facts: dict[str, Any] = {"action_hz": round(float(field_of(side, "action_hz")), 6)}
    for which in ("state", "action"):
        parts = field_of(field_of(side, "layout"), which)
        facts[f"{which} parts"] = [field_of(part, "name") for part in parts]
        for part in parts:
            keys = COMPARED if field_of(part, "is_used") else COMPARED_UNUSED
            facts.update({f"{which} {field_of(part, 'name')} {key}": field_of(part, key) for key in keys})
    return facts


def field_of(found: Any, name: str, *default: Any) -> Any:
    """A field of a map or of a record. Raises KeyError or AttributeError without a default."""
    return found[name] if isinstance(found, Mapping) and {name, *default} & {*found} else getattr(found, name, *default)
