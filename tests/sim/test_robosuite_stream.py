"""Two arms through the whole stream: recorded, trained on, played in the simulator, imagined as one cloud."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="make robosuite")

from tests.examples import SHORT_VAE
from xwam.cli import main
from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.policy import load_policy
from xwam.records import Prediction
from xwam.robot.actions import base_from_hand
from xwam.sim.robosuite import LAYOUTS, make_robosuite
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline
from xwam.view.points import base_points

TABLE_M = 0.8
VIEWS = ("front", "wrist", "right_wrist")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    words = ["collect", "robosuite", "--tasks", "TwoArmLift", "--episodes", "2", "--out", str(root / "data")]
    main([*words, "--processes", "1", "--size-px", "48"])
    with pytest.warns(UserWarning, match="fitted to data: cameras front, wrist, right_wrist instead of"):
        last = run_pipeline(
            "debug", root / "data", root / "run", {"num_steps": 2, "validate_every": 0}, vae=SHORT_VAE,
            sources=Sources(every=8),
        )  # fmt: skip
    return root, last


def test_both_arms_are_trained(pair):
    _, last = pair
    policy = load_policy(last)
    assert policy.layout == LAYOUTS[2]
    assert policy.layout.action_mask.all()
    assert policy.config.view_names == VIEWS
    spread = policy.normalizer.action_q99 - policy.normalizer.action_q01
    assert (spread[policy.layout.action_slice("right_rotation")][2] > 0.05).all(), "the right hand is turned"


def test_the_table_lies_flat_in_the_cloud_of_every_camera(pair):
    """Also in those of the cameras on the two moving hands; with the hands exchanged it does not."""
    root, last = pair
    episodes, config = open_lerobot(root / "data"), load_policy(last).config.clip
    clip = Clips(episodes, config, VIEWS, split="all", validation_share=0.0).at(1, 0)
    real = Prediction(
        action=clip.action, state=clip.state, video=clip.video, depth=clip.depth, cameras=clip.cameras,
        instruction=clip.instruction, frame_hz=5.0, action_hz=20.0, seed=0, seconds={},
    )  # fmt: skip
    other = {"left": "right", "right": "left"}
    exchanged = replace(real, cameras=tuple(replace(c, hand=other[c.hand]) for c in clip.cameras))
    for shown, expected in ((real, (True, True, True)), (exchanged, (True, False, False))):
        heights = base_points(shown, LAYOUTS[2])[:, -1, ..., 2].reshape(3, -1)
        flat = [np.mean(np.abs(z[np.isfinite(z)] - TABLE_M) < 0.01) for z in heights]
        assert tuple(share > 0.4 for share in flat) == expected, flat


def test_it_is_played_and_counted(pair, tmp_path, capsys):
    _, last = pair
    out = tmp_path / "closed.json"
    words = ["evaluate", str(last), "--env", "robosuite", "--episodes", "1", "--processes", "1", "--out", str(out)]
    main([*words, "--tasks", "TwoArmLift", "--max-steps", "6", "--replan-every", "6"])
    assert "TwoArmLift" in capsys.readouterr().out
    assert out.with_suffix(".html").stat().st_size > 100_000
    with pytest.raises(SystemExit):
        main([*words, "--tasks", "Lift"])
    assert "another robot than this policy: state right_position: is_used=True, not False" in capsys.readouterr().err


def test_both_hands_are_in_the_imagined_world(pair):
    _, last = pair
    env = make_robosuite("TwoArmLift", width_px=48, height_px=48)
    env.reset(0)
    observation = env.observe()
    env.close()
    _, world = load_policy(last).predict(observation, seed=0)
    assert world.video.shape[:2] == (3, 5)
    for hand in ("left", "right"):
        path = base_from_hand(LAYOUTS[2], world.state, hand)
        assert path.shape == (5, 4, 4)
        assert np.abs(path[0, :3, 3] - observation.state[LAYOUTS[2].state_slice(f"{hand}_position")]).max() < 1e-4
