"""Forward dynamics: what is given stays, what is imagined listens to it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.examples import make_normalizer, make_observation, make_state
from xwam.cli import main
from xwam.data.opening import open_data
from xwam.dynamics import imagine_actions
from xwam.encode import encode_states
from xwam.evaluate.clips import held_out, imagine_clip, observation_of
from xwam.images import resize_and_centre_crop
from xwam.policy import load_policy
from xwam.view.export import load_prediction


def test_forward_dynamics_keeps_what_is_given_and_listens_to_it(trained):
    _, last = trained
    policy = load_policy(last)
    observation, clip = make_observation(policy.config), policy.config.clip
    state = np.repeat(observation.state[None], clip.num_states, axis=0)
    action = np.zeros((clip.action_horizon, policy.layout.action_width), np.float32)
    still = imagine_actions(policy, observation, action, state, seed=3)
    np.testing.assert_array_equal(still.action, action)
    np.testing.assert_array_equal(still.state, state)
    for view, name in enumerate(policy.config.view_names):
        seen = resize_and_centre_crop(observation.images[name], clip)
        np.testing.assert_array_equal(still.video[view, 0], seen)
    np.testing.assert_array_equal(imagine_actions(policy, observation, action, state, seed=3).video, still.video)
    moved = imagine_actions(policy, observation, action + policy.layout.action_mask * np.float32(0.02), state, seed=3)
    assert not np.array_equal(moved.video, still.video)
    with pytest.raises(ValueError, match="3 actions, 5 states: give 16 actions and 5 states"):
        imagine_actions(policy, observation, action[:3], state)
    elsewhere = state + np.float32(0.3) * np.eye(1, state.shape[1], dtype=np.float32)
    with pytest.raises(ValueError, match=r"state\[0\] differs from observation\.state"):
        imagine_actions(policy, observation, action, elsewhere)
    down = observation.state.copy()
    rotation = policy.layout.state_slice("left_rotation")
    down[rotation] = (1e-4, 1, 0, 0)
    path = np.repeat(down[None], clip.num_states, axis=0).astype(np.float64)
    path[:, rotation.start] *= -1  # the same to the eye, and another sign of w
    imagine_actions(policy, replace(observation, state=down), action, path)
    path[0, rotation] = (0, 0, 1, 0)
    with pytest.raises(ValueError, match=r"state\[0\] differs"):
        imagine_actions(policy, replace(observation, state=down), action, path)


def test_the_network_reads_the_actions_in_its_own_numbers(trained, monkeypatch):
    root, last = trained
    policy = load_policy(last)
    clip, told = held_out(root / "data", policy.config)[0], []
    forward = policy.networks.transformer.forward

    def listen(video, state, action, *rest, **more):
        told.append(action[0].numpy())
        return forward(video, state, action, *rest, **more)

    monkeypatch.setattr(policy.networks.transformer, "forward", listen)
    imagine_actions(policy, observation_of(clip), clip.action, clip.state)
    assert told
    for action in told:
        np.testing.assert_allclose(policy.normalizer.denormalize_action(action), clip.action, atol=1e-6)


def test_the_steps_say_what_is_far(trained):
    _, last = trained
    policy = load_policy(last)
    observation, clip = make_observation(policy.config), policy.config.clip
    state = np.repeat(observation.state[None], clip.num_states, axis=0)
    action = np.zeros((clip.action_horizon, policy.layout.action_width), np.float32)
    for share, most in ((0.0, 0.2), (0.99, 1.0)):
        steps = replace(policy.config.denoise, far_share=share)
        worlds = [imagine_actions(policy, observation, action, state, steps=steps)]
        worlds += [list(policy.predict(observation, steps=steps))[-1]]
        unknown = [float((world.depth == 0).mean()) for world in worlds]
        assert [most - 0.2 <= part <= most for part in unknown] == [True, True], unknown


def test_the_other_sign_of_a_quaternion_is_the_same_rotation(trained):
    root, last = trained
    policy = load_policy(last)
    clip = held_out(root / "data", policy.config)[0]
    other = clip.state.copy()
    other[:, policy.layout.state_slice("left_rotation")] *= -1
    worlds = [imagine_actions(policy, observation_of(clip), clip.action, path, seed=3) for path in (clip.state, other)]
    np.testing.assert_array_equal(worlds[0].video, worlds[1].video)
    assert torch.equal(*(encode_states(path, make_normalizer()) for path in (make_state(3), flipped(make_state(3)))))


def flipped(state: np.ndarray) -> np.ndarray:
    """The same rotations, with the other sign."""
    state = state.copy()
    state[:, make_normalizer().layout.state_slice("left_rotation")] *= -1
    return state


def test_a_policy_without_a_decoder_says_so(trained):
    root, last = trained
    policy = load_policy(last, with_world=False)
    clip = held_out(root / "data", policy.config)[0]
    with pytest.raises(ValueError, match="with_world=False"):
        imagine_actions(policy, observation_of(clip), clip.action, clip.state)


def test_a_checkpoint_that_never_learned_it_says_so(trained):
    _, last = trained
    policy = load_policy(last)
    policy.config = replace(policy.config, modes=("policy", "joint"))
    clip = policy.config.clip
    state = np.repeat(make_observation(policy.config).state[None], clip.num_states, axis=0)
    action = np.zeros((clip.action_horizon, policy.layout.action_width), np.float32)
    with pytest.raises(ValueError, match="not trained for 'forward_dynamics'"):
        imagine_actions(policy, make_observation(policy.config), action, state)


def test_a_recorded_clip_is_imagined_with_its_own_actions(trained, tmp_path, capsys):
    root, last = trained
    policy = load_policy(last)
    clip = held_out(root / "data", policy.config)[0]
    told, real = imagine_clip(policy, clip, seed=0, mode="forward_dynamics")
    np.testing.assert_array_equal(told.action, clip.executed)
    other, _ = imagine_clip(policy, replace(clip, executed_action=clip.action / 2), seed=0, mode="forward_dynamics")
    np.testing.assert_array_equal(other.action, clip.action / 2)
    np.testing.assert_array_equal(told.state, real.state)
    guessed, _ = imagine_clip(policy, clip, seed=0)
    assert not np.array_equal(guessed.video[:, 1:], told.video[:, 1:])
    main(["imagine", str(last), "--data", str(root / "data"), "--mode", "forward_dynamics", "--out", str(tmp_path)])
    saved = load_prediction(tmp_path / "world.npz")
    np.testing.assert_array_equal(saved.prediction.action, saved.real.action)
    capsys.readouterr()
    last_frame = str(open_data(root / "data").length(0) - 1)
    for words, message in (
        (["--input", "seen.npz"], "an observation comes without actions"),
        (["--data", str(root / "data"), "--frame", last_frame], "the episode ends within its 16 actions"),
    ):
        with pytest.raises(SystemExit):
            main(["imagine", str(last), *words, "--mode", "forward_dynamics", "--out", str(tmp_path)])
        assert message in capsys.readouterr().err


def test_data_of_another_robot_are_refused(trained, tmp_path, capsys):
    """Its numbers may stand in the same slots and mean something else: nothing else would notice."""
    root, last = trained
    shutil.copytree(root / "data", tmp_path / "data")
    layout = json.loads((tmp_path / "data/meta/layout.json").read_text())
    (tmp_path / "data/meta/layout.json").write_text(json.dumps({**layout, "name": "lift"}))
    for verb in ("evaluate", "imagine"):
        with pytest.raises(SystemExit):
            main([verb, str(last), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "found.json")])
        said = capsys.readouterr().err
        assert f"data of robot 'lift': the policy acts as {layout['name']!r}" in said
        assert "--robot" in said


def test_the_open_loop_tells_the_actions_and_scores_a_region(trained, tmp_path, capsys):
    root, last = trained
    out = tmp_path / "open.json"
    words = ["evaluate", str(last), "--data", str(root / "data"), "--clips", "1", "--out", str(out)]
    main([*words, "--mode", "forward_dynamics", "--region", "-2", "-2", "-2", "2", "2", "2"])
    report = json.loads(out.read_text())
    assert report["settings"]["mode"] == "forward_dynamics"
    assert report["settings"]["region"] == [-2, -2, -2, 2, 2, 2]
    assert report["region_chamfer_m"] == pytest.approx(report["chamfer_m"]), "everything lies in this region"
    assert report["psnr_db"] > 0
    assert not [name for name in report if name.startswith(("path_", "action_"))], "they were given"
    page = (tmp_path / "open.html").read_text()
    assert "imagined, told the recorded actions, and real" in page
    assert "World after" in page
    assert "actions after" not in page.lower(), "there was nothing to wait for"
    assert '<span class="real">executed' in page
    assert "hand path error" not in page, "it was given"
    assert "The model was told the actions" in page
    assert "Cloud in the region" in page
    capsys.readouterr()
    for more, message in (
        ([*words, "--region", "2", "2", "2", "-2", "-2", "-2"], "region="),
        (["evaluate", str(last), "--env", "metaworld", "--mode", "forward_dynamics"], "need --data"),
    ):
        with pytest.raises(SystemExit):
            main(more)
        assert message in capsys.readouterr().err
