"""The published data sets' layout, statistics and augmentation against recorded numbers.

``goldens/data`` keeps the small part of the recorded set: images of fewer frames, one depth channel.
"""

from pathlib import Path

import pytest

from xwam.check.golden_data import check_clips, published_layout, source_of
from xwam.check.golden_policy import check_policy
from xwam.data.xwam_json import open_xwam_json

GOLDENS = Path(__file__).parents[1] / "goldens" / "data"
BOUND = 1e-5


# A bound for gripper commands that nothing uses, and skipped commands, which cannot be added up.
ON_PURPOSE = {
    "raw_single": [
        "statistics/action_skip1/gripper_action/not scaled",
        "statistics/action_skip2/refused",
        "statistics/action_skip3/refused",
    ],
    "delta_dual": [],
}


@pytest.mark.parametrize(("name", "num_variants"), [("raw_single", 3), ("delta_dual", 4)])
def test_statistics_and_clips(name: str, num_variants: int) -> None:
    errors = dict(check_clips(GOLDENS, f"data_{name}"))
    assert {key: error for key, error in errors.items() if not error < BOUND} == {}
    assert {key for key, error in errors.items() if key.endswith("mask") and error != 0} == set()
    assert len({key.split("/")[0] for key in errors} - {"statistics"}) == num_variants
    assert len([key for key in errors if key.endswith("/actions")]) == 4 * num_variants
    assert len([key for key in errors if key.endswith("first view")]) == 2
    assert [key for key in errors if key.endswith(("/refused", "/not scaled"))] == ON_PURPOSE[name]


def test_policy_and_augmentation() -> None:
    errors = dict(check_policy(GOLDENS, "policy"))
    assert {key: error for key, error in errors.items() if not error < BOUND} == {}
    assert {key.split("/")[0] for key in errors} == {"crop", "robocasa", "robotwin", "future", "seeds", "aug"}
    assert len([key for key in errors if key.startswith("aug/")]) == 8


def test_a_data_set_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    raw, delta = (source_of(GOLDENS, f"data_{name}") for name in ("raw_single", "delta_dual"))
    with pytest.raises(ValueError, match="action_skip=2"):
        open_xwam_json(raw.root, layout=published_layout(raw), raw_actions=True, action_skip=2)
    with pytest.raises(ValueError, match="right arm"):
        open_xwam_json(raw.root, layout=published_layout(delta)).info(0)
    with pytest.raises(ValueError, match="no raw_actions"):
        open_xwam_json(delta.root, layout=published_layout(delta), raw_actions=True).info(0)
    with pytest.raises(ValueError, match="first_step=1"):
        open_xwam_json(delta.root, layout=published_layout(delta), first_step=1)
    with pytest.raises(FileNotFoundError, match=r"metadata\.json"):
        open_xwam_json(tmp_path, layout=published_layout(delta))
