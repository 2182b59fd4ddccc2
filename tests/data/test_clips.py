"""Clips hold the right frames and actions, are masked after the end, and never mix training and validation episodes."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.conftest import SIZE, make_episode
from xwam.config import ClipConfig
from xwam.data.cache import cache_facts
from xwam.data.clips import Clips, split_episodes
from xwam.data.lerobot import DatasetWriter, LeRobotEpisodes, open_lerobot

LENGTHS = [20, 21, 22]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory, layout, cameras) -> LeRobotEpisodes:
    root = tmp_path_factory.mktemp("clips") / "set"
    writer = DatasetWriter(root, layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    for number, length in enumerate(LENGTHS):
        writer.write(make_episode(number, length))
    writer.finish()
    return open_lerobot(root)


def config(size: int = SIZE, hz: float = 20.0) -> ClipConfig:
    return ClipConfig(
        num_frames=5, height_px=size, width_px=size, action_horizon=16, actions_per_frame=4, action_hz=hz, crop=0.9
    )


def test_a_clip_inside_the_episode(episodes: LeRobotEpisodes) -> None:
    clip = Clips(episodes, config(), ("wrist", "front")).at(1, 3)
    expected = make_episode(1, 21)
    np.testing.assert_allclose(clip.state, expected.state[3:20:4], atol=1e-6)
    np.testing.assert_allclose(clip.action, expected.action[3:19], atol=1e-6)
    np.testing.assert_array_equal(clip.video[1], episodes.frames(1, "front", np.arange(3, 20, 4)))
    np.testing.assert_allclose(clip.depth[0], expected.depth["wrist"][3:20:4], atol=1e-3)
    for mask in (clip.video_mask, clip.depth_mask, clip.state_mask, clip.action_mask):
        assert mask.all()
    assert [camera.name for camera in clip.cameras] == ["wrist", "front"]


def test_what_was_executed_is_known_beside_what_should_be_done(episodes: LeRobotEpisodes) -> None:
    clips = Clips(episodes, config(), ("front",))
    assert clips.knows_executed
    clip = clips.at(0, 11)  # 20 steps: 9 are left
    np.testing.assert_allclose(clip.executed[:9], make_episode(0, 20).executed_action[11:], atol=1e-6)
    np.testing.assert_allclose(clip.executed[:9] - clip.action[:9], 0.001, atol=1e-6)
    assert (clip.executed[9:] == 0).all()
    without = replace(clip, executed_action=None)
    assert without.executed is without.action


def test_after_the_end_everything_is_masked(episodes: LeRobotEpisodes) -> None:
    clip = Clips(episodes, config(), ("front",)).at(0, 11)  # 20 steps: 9 are left
    assert clip.action_mask.sum() == 9
    assert (clip.action[9:] == 0).all()
    np.testing.assert_array_equal(clip.state_mask, [True, True, True, False, False])
    np.testing.assert_array_equal(clip.video_mask, [[True, True, True, False, False]])
    np.testing.assert_array_equal(clip.depth_mask, clip.video_mask)
    last = episodes.info(0).state[-1]
    np.testing.assert_array_equal(clip.state[3:], [last, last])
    np.testing.assert_array_equal(clip.video[0, 4], episodes.frames(0, "front", np.array([19]))[0])


def test_after_the_end_commands_say_stay(episodes: LeRobotEpisodes) -> None:
    """A joint that rests at 0.3 rad must not be told to go to 0; changes are 0 there. Neither is a target."""
    action = tuple(
        replace(part, kind="joint_command", scaling="quantile") if part.name == "left_position" else part
        for part in episodes.layout.action
    )

    class Joints:
        layout = replace(episodes.layout, action=action)

        def __getattr__(self, name):
            return getattr(episodes, name)

    clips, plain = (Clips(source, config(), ("front",)) for source in (Joints(), episodes))
    clip, where = clips.at(0, 11), episodes.layout.action_slice("left_position")
    last = episodes.info(0).action[-1]
    assert (clip.action[9:, where] == last[where]).all()
    assert np.abs(last[where]).min() > 0
    assert (np.delete(clip.action[9:], np.r_[where], axis=1) == 0).all()
    facts = [cache_facts(some, vae_hash="", num_variants=1, seed=0) for some in (clips, plain)]
    assert facts[0] != facts[1], "latents cached before are not taken"


def test_every_step_begins_a_clip(episodes: LeRobotEpisodes) -> None:
    clips = Clips(episodes, config(), ("front",), split="all")
    assert len(clips) == sum(LENGTHS)
    assert [clips.locate(i) for i in (0, 19, 20, 62)] == [(0, 0), (0, 19), (1, 0), (2, 21)]
    whole = Clips(episodes, config(), ("front",), split="all", padded=False)
    assert len(whole) == sum(length - 16 for length in LENGTHS)
    assert all(whole[i].action_mask.all() and whole[i].video_mask.all() for i in range(len(whole)))
    sparse = Clips(episodes, config(), ("front",), split="all", every=8)
    assert [sparse.locate(i) for i in range(len(sparse))] == [(e, s) for e in range(3) for s in (0, 8, 16)]
    with pytest.raises(IndexError, match="index=63"):
        clips.locate(63)


def test_whole_episodes_are_held_out(episodes: LeRobotEpisodes) -> None:
    train, validation = (Clips(episodes, config(), ("front",), split=split) for split in ("train", "validation"))
    assert len(train.numbers) == 2
    assert len(validation.numbers) == 1
    assert not set(train.numbers) & set(validation.numbers)
    train, validation = split_episodes(1000, 0.1)
    assert len(validation) == 100
    assert sorted(train + validation) == list(range(1000))
    assert [number // 10 for number in validation] == list(range(100)), "evenly: tasks are recorded one after the other"
    assert len({number % 10 for number in validation}) == 10, "drawn: tasks may also be recorded in turns"
    for more in (1001, 1100):
        assert split_episodes(more, 0.1)[1][:100] == validation, "a growing data set keeps its held-out episodes"
    assert split_episodes(5, 0.0)[1] == []
    assert [len(split_episodes(count)[1]) for count in range(1, 10)] == [0] + [1] * 8


def test_resizing_moves_the_intrinsics(episodes: LeRobotEpisodes) -> None:
    clip = Clips(episodes, config(16), ("front",)).at(0, 0)
    assert clip.video.shape == (1, 5, 16, 16, 3)
    assert clip.depth.shape == (1, 5, 16, 16)
    np.testing.assert_allclose(clip.cameras[0].intrinsics[:2], episodes.cameras[0].intrinsics[:2] / 2)


def test_what_does_not_fit_is_refused(episodes: LeRobotEpisodes) -> None:
    with pytest.raises(ValueError, match="action_hz=20"):
        Clips(episodes, config(hz=10.0), ("front",))
    with pytest.raises(ValueError, match="camera='top'"):
        Clips(episodes, config(), ("top",))
    with pytest.raises(ValueError, match="start=20"):
        Clips(episodes, config(), ("front",)).at(0, 20)
    with pytest.raises(ValueError, match=r"validation_share=0\.6"):
        Clips(episodes, config(), ("front",), validation_share=0.6)


def test_what_is_no_demonstration_teaches_no_actions_but_keeps_them(tmp_path, layout, cameras) -> None:
    writer = DatasetWriter(tmp_path / "set", layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    for number, success in enumerate((True, False)):
        writer.write(replace(make_episode(number, 24), success=success))
    writer.finish()
    episodes = open_lerobot(tmp_path / "set")
    assert [episodes.demonstrated(number).tolist() for number in (0, 1)] == [[True] * 24, [False] * 24]
    failed = Clips(episodes, config(), ("front",)).at(1, 2)
    assert not failed.action_mask.any()
    np.testing.assert_allclose(failed.action, make_episode(1, 24).action[2:18], atol=1e-6)
    for mask in (failed.state_mask, failed.video_mask, failed.depth_mask):
        assert mask.all()
    assert Clips(episodes, config(), ("front",), split="all").numbers == [0, 1]
    assert Clips(episodes, config(), ("front",), split="all", demonstrations_only=True).numbers == [0]


def test_after_the_last_demonstrated_action_no_clip_begins(tmp_path, layout, cameras) -> None:
    writer = DatasetWriter(tmp_path / "set", layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    corrected = np.isin(np.arange(24), [3, 4, 9])  # as where a person steps in for a while
    writer.write(replace(make_episode(0, 24), demonstrated=corrected))
    with pytest.raises(ValueError, match="demonstrated has 23 steps"):
        writer.write(replace(make_episode(1, 24), demonstrated=corrected[:23]))
    with pytest.raises(ValueError, match="success=False: a failure has none"):
        writer.write(replace(make_episode(1, 24), demonstrated=corrected, success=False))
    writer.finish()
    episodes = open_lerobot(tmp_path / "set")
    np.testing.assert_array_equal(episodes.demonstrated(0), corrected)
    clips = Clips(episodes, config(), ("front",), split="all", validation_share=0.0)
    assert [clips.locate(i)[1] for i in range(len(clips))] == list(range(10))
    clip = clips.at(0, 2)
    np.testing.assert_array_equal(clip.action_mask, corrected[2:18])
    np.testing.assert_allclose(clip.action, make_episode(0, 24).action[2:18], atol=1e-6)
    assert clip.video_mask.all()
    assert clips.num_demonstrations == 1
