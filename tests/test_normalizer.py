"""Layouts and statistics: both directions, and what is refused."""

import numpy as np
import pytest

from xwam.robot.layout import load_layout, two_arm_layout
from xwam.robot.normalizer import Normalizer, load_normalizer


def make(raw_gripper=False, single_arm=True):
    layout = two_arm_layout("test", single_arm=single_arm, raw_gripper=raw_gripper)
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(200, 16)), rng.normal(size=(200, 14)) * 0.02 + 0.01
    values = {"state": state, "action": action}
    q = {f"{n}_q{p:02d}": np.quantile(v, p / 100, axis=0) for n, v in values.items() for p in (1, 99)}
    return Normalizer(layout=layout, **q), state, action


@pytest.mark.parametrize("raw_gripper", [False, True])
def test_round_trip_on_used_slots(raw_gripper):
    normalizer, state, action = make(raw_gripper)
    layout = normalizer.layout
    back = normalizer.denormalize_state(normalizer.normalize_state(state))
    np.testing.assert_allclose(back, state * layout.state_mask, atol=1e-6)
    back = normalizer.denormalize_action(normalizer.normalize_action(action))
    np.testing.assert_allclose(back, action * layout.action_mask, atol=1e-8)


def test_no_motion_stays_no_motion():
    normalizer, _, action = make()
    assert np.abs(normalizer.normalize_action(np.zeros_like(action))).max() == 0


def test_quantiles_map_to_the_ends_and_quaternions_pass():
    normalizer, state, _ = make()
    low = normalizer.normalize_state(normalizer.state_q01)
    np.testing.assert_allclose(low[:3], -1, atol=1e-6)
    np.testing.assert_allclose(normalizer.normalize_state(state)[:, 3:7], state[:, 3:7], rtol=1e-6)


def test_rotations_that_are_none_are_refused():
    layout = two_arm_layout("two")
    state = np.zeros((3, 16))
    state[:, [3, 11]] = [1.0, -1.0]
    layout.check_quaternions(state)
    layout.check_quaternions(two_arm_layout("one", single_arm=True).with_positive_quaternions(state))
    for norm in (0.0, 3.0):
        state[1, 11] = norm
        with pytest.raises(ValueError, match=rf"state right_rotation has norm={norm:.3g}: must be a unit quaternion"):
            layout.check_quaternions(state)
        two_arm_layout("one", single_arm=True).check_quaternions(state)


def test_raw_gripper_only_changes_sign():
    normalizer, _, _ = make(raw_gripper=True)
    action = np.zeros(14)
    action[6] = 0.7
    assert normalizer.normalize_action(action)[6] == pytest.approx(-0.7)


def test_files_round_trip(tmp_path):
    normalizer, _, _ = make()
    normalizer.layout.save(tmp_path / "layout.json")
    normalizer.save(tmp_path / "normalizer.json")
    layout = load_layout(tmp_path / "layout.json")
    assert layout == normalizer.layout
    assert load_normalizer(tmp_path / "normalizer.json", layout).fingerprint() == normalizer.fingerprint()


def test_refusals(tmp_path):
    normalizer, state, _ = make()
    with pytest.raises(ValueError, match="needs 16 slots"):
        normalizer.normalize_state(np.zeros(7))
    state[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"not finite at index \[3, 2\]"):
        normalizer.normalize_state(state)
    with pytest.raises(FileNotFoundError, match="xwam stats"):
        load_normalizer(tmp_path / "normalizer.json", normalizer.layout)
    (tmp_path / "normalizer.json").write_text('{"state_q01": [0, 1]}')
    with pytest.raises(ValueError, match="must be 16 finite numbers"):
        load_normalizer(tmp_path / "normalizer.json", normalizer.layout)
    with pytest.raises(ValueError, match="did you mean 'left_gripper'"):
        normalizer.layout.state_slice("left_griper")


def test_what_is_unusual_is_told_and_what_is_absurd_refused():
    """A base that is turned or shifted by a metre is neither a wrong unit nor what training has seen."""
    normalizer, state, _ = make()
    usual = np.median(state, axis=0)
    usual[3:7] = (1, 0, 0, 0)
    assert normalizer.unusual(usual) == {}
    normalizer.check_plausible(usual)
    span = normalizer.state_q99[1] - normalizer.state_q01[1]
    shifted = usual + np.eye(16)[1] * 2 * span
    (said,) = normalizer.unusual(shifted).values()
    assert "state left_position[1]=" in said
    normalizer.check_plausible(shifted)
    with pytest.raises(ValueError, match=r"state left_position\[1\]="):
        normalizer.check_plausible(usual + np.eye(16)[1] * 20 * span)
