"""RoboTwin's script calls three functions. Its simulator needs a GPU; here a world of poses takes its place."""

import numpy as np
import pytest
from xwam_benchmarks import robotwin
from xwam_client.agreement import MismatchError

from tests.client_benchmarks.metadata import of_file, of_published


class Answering:
    """What ``robotwin.Model`` asks of a client; it answers the same chunk, and remembers what it was told."""

    def __init__(self, metadata, chunk):
        self.uri = "ws://nowhere"
        self.metadata, self.chunk, self.asked, self.num_resets = {**metadata, "action_horizon": 32}, chunk, [], 0

    def infer(self, observation, *, seed):
        self.asked.append((observation, seed))
        return self.chunk

    def reset(self):
        self.num_resets += 1


class Poses:
    """Both hands go where they are told at once."""

    def __init__(self, solved_after):
        self.eval_success, self.taken, self.solved_after = False, [], solved_after
        self.endpose = {
            "left_endpose": [-0.3, -0.2, 0.9, 1, 0, 0, 0], "left_gripper": 1.0,
            "right_endpose": [0.3, -0.2, 0.9, 0, 1, 0, 0], "right_gripper": 0.2,
        }  # fmt: skip

    def get_obs(self):
        camera = {"rgb": np.full((24, 32, 3), 7, np.uint8)}
        return {"observation": dict.fromkeys(robotwin.CAMERAS, camera), "endpose": self.endpose}

    def get_instruction(self):
        return "lift the pot"

    def take_action(self, target, action_type):
        assert action_type == "ee"
        assert target.shape == (16,)
        self.taken.append(target)
        self.eval_success = len(self.taken) == self.solved_after
        left, right = target[:8], target[8:]
        self.endpose = {
            "left_endpose": left[:7], "left_gripper": left[7], "right_endpose": right[:7], "right_gripper": right[7],
        }  # fmt: skip


def test_an_episode_as_robotwin_plays_it():
    chunk = np.zeros((32, 14), np.float32)
    chunk[:, 1], chunk[:, 6], chunk[:, 9] = 0.01, -0.05, -0.02  # left along the model's y, closing; right down
    model = robotwin.Model(Answering(of_published("robotwin"), chunk), replan_every=4)
    world = Poses(solved_after=10)
    robotwin.reset_model(model)
    while not world.eval_success:
        robotwin.eval(world, model, world.get_obs())
    assert len(world.taken) == 10
    assert [seed for _, seed in model.client.asked] == [0, 1, 2]
    assert model.client.asked[0][0].instruction == "lift the pot"
    assert set(model.client.asked[0][0].images) == set(robotwin.CAMERAS)
    # The model's axes are turned by a quarter about z: its y, to the left, is against RoboTwin's x.
    np.testing.assert_allclose(world.taken[-1][:3], [-0.3 - 10 * 0.01, -0.2, 0.9], atol=1e-6)
    np.testing.assert_allclose(world.taken[-1][7], 0.5, atol=1e-6)
    np.testing.assert_allclose(world.taken[-1][8:12], [0.3, -0.2, 0.9 - 10 * 0.02, 0], atol=1e-6)
    robotwin.reset_model(model)
    assert (model.client.num_resets, model.num_asked) == (2, 0)


@pytest.mark.parametrize("count", [0, 33])
def test_a_part_of_an_answer_is_played(count):
    with pytest.raises(ValueError, match=rf"replan_every={count}: must be in 1\.\.32"):
        robotwin.Model(Answering(of_published("robotwin"), None), replan_every=count)


def test_cameras_of_a_checkpoint_that_learned_from_its_files():
    metadata = of_file("robotwin")[1]
    model = robotwin.Model(Answering(metadata, None))
    assert model.cameras == {"head": "head_camera", "left_wrist": "left_camera", "right_wrist": "right_camera"}
    metadata["cameras"].append({"name": "front"})
    with pytest.raises(MismatchError, match="camera='front'"):
        robotwin.Model(Answering(metadata, None))
    assert robotwin.Model(Answering(metadata, None), cameras={"front": "head_camera"}).cameras["front"] == "head_camera"


def test_another_server_in_the_middle_is_refused():
    model, world = robotwin.Model(Answering(of_published("robotwin"), np.zeros((32, 14), np.float32))), Poses(99)
    robotwin.eval(world, model, world.get_obs())
    model.client.metadata = {**model.client.metadata, "checkpoint": {"name": "another", "hash": "1" * 16}}
    with pytest.raises(ValueError, match="now has another checkpoint"):
        robotwin.eval(world, model, world.get_obs())


def test_settings_as_robotwin_gives_them_connect_and_compare(server, tmp_path):
    """Numbers may be words, and a key's file ends in a new line; the debug checkpoint is not this robot's."""
    (tmp_path / "key").write_text("secret\n")
    settings = {"port": str(server.port), "replan_every": "8", "api_key_file": str(tmp_path / "key"), "cameras": None}
    with pytest.raises(MismatchError, match="camera"):
        robotwin.get_model(settings)
