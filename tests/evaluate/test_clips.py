"""The clips that are judged, what is real of them, and what a robot would score that does nothing."""

from dataclasses import replace

import numpy as np
import pytest

from tests.examples import make_clip
from xwam.data.clips import Clips, split_episodes
from xwam.evaluate.clips import held_out, imagine_clip, one_of_each, standing_still
from xwam.policy import load_policy
from xwam.presets import preset
from xwam.records import Camera
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


class Lengths:
    """Episodes of which only the lengths matter; of number 2 the first ten actions are demonstrated."""

    action_hz, num_episodes, lengths = 20.0, 6, (40, 40, 40, 40, 4, 12)
    layout, cameras, fingerprint = layout_of(ROBOT), (Camera(name="front", width=32, height=32),), "lengths"

    def info(self, *asked):
        raise AssertionError("nothing is read")

    frames = depth = info

    def length(self, number):
        return self.lengths[number]

    def demonstrated(self, number):
        return np.arange(40) < 10 if number == 2 else None


def clips_of_lengths(**how):
    shape = replace(preset("debug").clip, num_frames=9, action_horizon=32, actions_per_frame=4)
    return Clips(Lengths(), shape, ("front",), split="all", validation_share=0.0, **how)


def test_every_episode_gives_one_clip_before_a_second_of_any():
    clips = clips_of_lengths()
    chosen = one_of_each(clips, 10**6, seed=0)
    places = [clips.locate(index) for index in chosen]
    assert len(set(places)) == len(places) == 3 * 36 + 10 + 8
    numbers = [number for number, _ in places]
    assert set(numbers[:5]) == {0, 1, 2, 3, 5}, "episode 4 ends before its second frame"
    assert [sorted(numbers[k : k + 5]) for k in range(0, 40, 5)] == [[0, 1, 2, 3, 5]] * 8
    assert numbers[:5] != sorted(numbers[:5]), "drawn"
    starts = {number: sorted(start for other, start in places if other == number) for number in numbers}
    assert starts[0] == list(range(36)), "far beyond 7, where the last whole clip begins"
    assert starts[2] == list(range(10)), "not after what is demonstrated"
    assert starts[5] == list(range(8))
    for most in (1, 7):
        assert one_of_each(clips, most, seed=0) == chosen[:most]
    assert one_of_each(clips, 99, seed=1) != chosen[:99]


@pytest.mark.parametrize(
    ("how", "counts"), [({"every": 8}, [5, 5, 2, 5, 0, 1]), ({"padded": False}, [8] * 4 + [0] * 2)]
)
def test_clips_of_episodes_are_those_with_a_second_frame(how, counts):
    clips = clips_of_lengths(**how)
    assert [len(numbers) for numbers in clips.of_episodes] == counts
    for number, found in enumerate(clips.of_episodes):
        places = [clips.locate(index) for index in found]
        assert places == [(number, how.get("every", 1) * k) for k in range(len(found))]
