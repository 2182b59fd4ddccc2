"""An observation goes to disk and comes back to the bit; anything else is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from tests.examples import make_observation
from xwam.data.observations import load_observation, save_observation
from xwam.presets import preset


@pytest.mark.parametrize("has_depth", [True, False])
def test_round_trip(tmp_path, has_depth):
    seen = make_observation(preset("debug"))
    if has_depth:
        seen = replace(seen, depth={"left": np.linspace(0, 2, 1024, dtype=np.float32).reshape(32, 32)})
    save_observation(tmp_path / "seen.npz", seen)
    assert [path.name for path in tmp_path.iterdir()] == ["seen.npz"]
    back = load_observation(tmp_path / "seen.npz")
    assert back.instruction == seen.instruction
    assert back.state.dtype == seen.state.dtype
    np.testing.assert_array_equal(back.state, seen.state)
    for mine, theirs in ((back.images, seen.images), (back.depth, seen.depth)):
        assert list(mine) == list(theirs)
        assert all(mine[name].dtype == theirs[name].dtype for name in theirs)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    assert list(back.cameras) == list(seen.cameras)
    for name, camera in seen.cameras.items():
        expected = {key: np.asarray(value).tolist() for key, value in vars(camera).items()}
        assert {key: np.asarray(value).tolist() for key, value in vars(back.cameras[name]).items()} == expected


def test_every_array_opens_without_pickle(tmp_path):
    save_observation(tmp_path / "seen.npz", make_observation(preset("debug")))
    with np.load(tmp_path / "seen.npz", allow_pickle=False) as stored:
        names = {"state", "facts", "image.left", "image.right", "image.wrist"}
        assert {name: stored[name].dtype != object for name in stored.files} == dict.fromkeys(names, True)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_observation writes one"):
        load_observation(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="format=None: xwam-observation-1 is read here"):
        load_observation(tmp_path / "other.npz")
    np.savez(tmp_path / "bad.npz", facts=np.array([{"format": "xwam-observation-1"}], dtype=object))
    with pytest.raises(ValueError, match="is no file that"):
        load_observation(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match=r"end in \.npz"):
        save_observation(tmp_path / "seen.txt", make_observation(preset("debug")))
