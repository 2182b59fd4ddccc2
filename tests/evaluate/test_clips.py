"""The clips that are judged, what is real of them, and what a robot would score that does nothing."""

import numpy as np

from tests.examples import make_clip
from xwam.data.clips import split_episodes
from xwam.evaluate.clips import held_out, imagine_clip, standing_still
from xwam.policy import load_policy
from xwam.presets import preset
from xwam.robot.layout import layout_slices
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig, layout_of

ROBOT = RobotConfig(
    name="both",
    action_hz=20.0,
    state=(
        PartSource(what="joints", key="s", size=6),
        PartSource(what="gripper", key="s", start=6),
        PartSource(what="position", arm="right", key="s", start=7),
        PartSource(what="rotation", arm="right", key="s", start=10),
    ),
    action=(
        PartSource(what="joints", key="a", size=6),
        PartSource(what="gripper", key="a", start=6),
        PartSource(what="position", arm="right", key="a", start=7, reference="delta"),
    ),
    cameras=(CameraSource(name="front", key="front"),),
)


def test_clips_that_are_judged_are_of_episodes_that_no_training_saw(trained):
    root, last = trained
    clips = held_out(root / "data", load_policy(last, with_world=False).config)
    training, kept = split_episodes(clips.episodes.num_episodes)
    judged = {clips.locate(index)[0] for index in range(len(clips))}
    assert judged <= set(kept)
    assert judged.isdisjoint(training)


def test_reality_is_cropped_as_the_model_sees_it(trained):
    root, last = trained
    policy = load_policy(last)
    clip = held_out(root / "data", policy.config)[0]
    imagined, real = imagine_clip(policy, clip, seed=0)
    np.testing.assert_array_equal(imagined.video[:, 0], real.video[:, 0], "both begin with what was seen")
    assert not np.array_equal(real.video, clip.video)


def test_standing_still_is_no_change_and_joints_as_they_are():
    layout, clip = layout_of(ROBOT), make_clip(preset("debug"))
    still = standing_still(clip, layout)
    parts = {part.name: still[:, where] for part, where in layout_slices(layout.action) if part.is_used}
    np.testing.assert_array_equal(parts["left_joints"], np.tile(clip.state[0, :6], (len(still), 1)))
    np.testing.assert_array_equal(parts["left_gripper"], np.tile(clip.action[0, 6:7], (len(still), 1)))
    assert not parts["right_position"].any()
