"""The policy: actions first, the world later; every answer depends on its own observation and seed alone."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.examples import make_observation
from tests.train.encoded import write_checkpoint
from xwam.config import DenoiseConfig
from xwam.evaluate.results_file import identity
from xwam.policy import Policy, load_policy, start_noise
from xwam.presets import preset
from xwam.train.export import export_policy
from xwam.train.options import changed

CONFIG = preset("debug")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), CONFIG)


@pytest.fixture(scope="module")
def policy(folder) -> Policy:
    return load_policy(folder)


def test_actions_come_first_then_the_world(policy):
    observation = make_observation(CONFIG)
    now, later = policy.predict(observation, seed=3)
    assert now.video is None
    assert now.depth is None
    clip = CONFIG.clip
    assert now.action.shape == (clip.action_horizon, 14)
    assert later.video.shape == (3, clip.num_frames, clip.height_px, clip.width_px, 3)
    assert later.depth.shape == later.video.shape[:-1]
    np.testing.assert_array_equal(now.action, later.action)
    np.testing.assert_array_equal(now.state[0], observation.state)
    assert set(later.seconds) == {"encode", "text", "actions", "world", "decode"}


def test_what_is_done_with_the_actions_is_not_the_world_s_time(policy):
    answers = policy.predict(make_observation(CONFIG), seed=0)
    next(answers)
    time.sleep(1.0)
    assert next(answers).seconds["world"] < 1.0


def test_steps_are_those_that_were_asked_for(folder, policy):
    observation = make_observation(CONFIG)
    fewer = load_policy(folder, action_steps=1, video_steps=3)
    assert (fewer.config.denoise.num_action_steps, fewer.config.denoise.num_video_steps) == (1, 3)
    expected = policy.predict(observation, seed=1, steps=replace(CONFIG.denoise, num_action_steps=1, num_video_steps=3))
    for found, answer in zip(fewer.predict(observation, seed=1), expected, strict=True):
        np.testing.assert_array_equal(found.action, answer.action)
    assert load_policy(folder, video_steps=2).config.denoise.num_action_steps == CONFIG.denoise.num_action_steps
    with pytest.raises(ValueError, match=r"num_action_steps=2 must be in 1..num_video_steps=1"):
        load_policy(folder, video_steps=1)


def test_bf16_is_for_transformer_and_decoder(folder):
    policy = load_policy(folder, dtype=torch.bfloat16)
    vae = policy.networks.vae.vae
    assert {p.dtype for p in policy.networks.transformer.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in vae.decoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in vae.encoder.parameters()} == {torch.float32}
    *_, answer = policy.predict(make_observation(CONFIG), seed=0)
    policy.networks.vae.set_decoder_dtype(torch.float32)  # rounded weights, exact sums
    *_, exact = policy.predict(make_observation(CONFIG), seed=0)
    np.testing.assert_array_equal(answer.action, exact.action)
    off = np.abs(answer.video.astype(int) - exact.video)
    assert off.max() > 0
    assert off.mean() < 0.5, "grey levels"
    assert load_policy(folder, dtype=torch.bfloat16, with_world=False).networks.vae.vae.decoder is None
    assert identity(load_policy(folder))["precision"] == "float32"
    assert identity(policy)["precision"] == "bfloat16", "weights stored in bfloat16 have the same digest in both"


def test_a_policy_is_known_whatever_computes_its_digest():
    """The number of threads and the order of the memory must not matter; one bit of one weight must."""
    policy = load_policy(Path(__file__).parents[1] / "checkpoints/tiny")  # large enough for threads to share out sums
    for parameter in policy.networks.transformer.parameters():
        parameter.data *= (8 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))).exp()
    known, num_threads = identity(policy), torch.get_num_threads()
    weight = next(p for p in policy.networks.vae.parameters() if p.ndim == 5 and p.shape[1] > 1)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert identity(policy) == known
    finally:
        torch.set_num_threads(num_threads)
    weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    assert identity(policy) == known
    with torch.no_grad():
        weight[0, 0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0, 0], torch.tensor(9.0))
    assert identity(policy) != known
    known = identity(policy)
    policy.normalizer = replace(policy.normalizer, action_q99=7 * policy.normalizer.action_q99)
    assert identity(policy) != known, "other statistics are another policy"


def test_the_first_frame_is_what_was_seen(policy):
    from xwam.images import resize_and_centre_crop

    observation = make_observation(CONFIG)
    *_, later = policy.predict(observation)
    clip = CONFIG.clip
    seen = resize_and_centre_crop(observation.images["left"], clip)
    np.testing.assert_array_equal(later.video[0, 0], seen)


def test_actions_only_gives_the_same_actions_and_stops(policy):
    observation = make_observation(CONFIG)
    both = next(policy.predict(observation, seed=5))
    alone = list(policy.predict(observation, seed=5, actions_only=True))
    assert len(alone) == 1
    np.testing.assert_array_equal(alone[0].action, both.action)


def test_unused_slots_stay_zero_and_quaternions_are_unit(policy):
    *_, later = policy.predict(make_observation(CONFIG))
    assert (later.action[:, 7:] == 0).all()
    assert (later.state[:, 8:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(later.state[:, 3:7], axis=1), 1, rtol=1e-5)
    assert (later.state[:, 3] >= 0).all()


def test_seeds_decide(policy):
    observation = make_observation(CONFIG)
    one, again, other = (next(policy.predict(observation, seed=s, actions_only=True)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.action, again.action)
    assert np.abs(one.action - other.action).max() > 1e-4


def test_a_batch_answers_as_single_requests_do(policy):
    observations = [make_observation(CONFIG, seed=s) for s in (0, 1)]
    observations[1] = replace(observations[1], instruction="open the drawer")
    *_, together = policy.predict_batch(observations, seeds=[7, 8])
    for observation, seed, answer in zip(observations, [7, 8], together, strict=True):
        *_, alone = policy.predict(observation, seed=seed)
        np.testing.assert_allclose(answer.action, alone.action, atol=1e-5)
        assert np.abs(answer.video.astype(int) - alone.video.astype(int)).max() <= 1


def test_guidance_of_one_is_the_plain_pass_and_others_differ(policy):
    observation = make_observation(CONFIG)
    plain = next(policy.predict(observation, actions_only=True))
    steps = DenoiseConfig(num_video_steps=4, num_action_steps=2, shift=5.0, guidance=3.0)
    guided = next(policy.predict(observation, actions_only=True, steps=steps))
    assert np.abs(plain.action - guided.action).max() > 1e-6


def test_noise_of_a_request_does_not_depend_on_its_neighbours():
    alone = start_noise(CONFIG, [5], (2, 2))
    beside = start_noise(CONFIG, [4, 5], (2, 2))
    for one, two in zip(alone, beside, strict=True):
        assert torch.equal(one[0], two[1])


def test_prompts_are_encoded_once(policy, monkeypatch):
    asked, encode = [], policy.text.encode
    monkeypatch.setattr(policy.text, "encode", lambda texts: asked.extend(texts) or encode(texts))
    first = policy.encode_prompts(["reach this goal", "reach this goal"])
    assert torch.equal(policy.encode_prompts(["reach this goal"])[0], first[1])
    assert asked == ["reach this goal"]


def test_without_the_world_depth_and_decoder_stay_on_disk(folder, policy):
    observation = make_observation(CONFIG)
    alone = load_policy(folder, with_world=False)
    assert not any("extra_" in name for name in alone.networks.transformer.state_dict())
    assert not any(".decoder." in name for name in alone.networks.vae.state_dict())
    (answer,) = alone.predict(observation, seed=5, actions_only=True)
    np.testing.assert_array_equal(answer.action, next(policy.predict(observation, seed=5)).action)
    assert not alone.has_world
    with pytest.raises(ValueError, match="with_world=False"):
        next(alone.predict(observation))


def test_known_prompts_need_no_text_encoder(folder, policy, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    observation = make_observation(CONFIG)
    policy.save_prompts(copy, [observation.instruction])
    shutil.rmtree(copy / "text")
    alone = load_policy(copy)
    found, expected = (next(p.predict(observation, seed=5, actions_only=True)) for p in (alone, policy))
    np.testing.assert_array_equal(found.action, expected.action)
    with pytest.raises(FileNotFoundError, match="text"):
        alone.encode_prompts(["a new one"])
    load_policy(folder).save_prompts(copy, ["a new one"])
    assert {"a new one", ""} <= set(load_policy(copy).encoded.texts)
    again = load_policy(folder)
    for text in ("one", "two"):
        again.save_prompts(copy, [text])
    assert {"one", "two", ""} == set(load_policy(copy).encoded.texts)
    before = {"", observation.instruction}
    alone.save_prompts(copy, [])
    assert set(load_policy(copy).encoded.texts) == before, "what came with the checkpoint is written again"


def test_doors(policy, folder, tmp_path):
    with pytest.raises(ValueError, match="one seed for each"):
        next(policy.predict_batch([make_observation(CONFIG)], seeds=[1, 2]))
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        load_policy(tmp_path)
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    layout = json.loads((broken / "layout.json").read_text())
    layout["action"].pop()
    (broken / "layout.json").write_text(json.dumps(layout))
    with pytest.raises(ValueError, match=r"action_width=14 but layout\.json has 13"):
        load_policy(broken)
    (broken / "layout.json").unlink()
    shutil.copy(folder / "layout.json", broken / "layout.json")
    (broken / "normalizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no statistics"):
        load_policy(broken)


def test_a_device_without_float64_is_refused(folder, policy):
    with pytest.raises(ValueError, match="device=mps: has no float64"):
        load_policy(folder, device="mps")
    with pytest.raises(ValueError, match="device=mps:0"):
        Policy(CONFIG, policy.normalizer, policy.cameras, policy.networks, device="mps:0")


def test_export_keeps_the_answers(folder, tmp_path):
    export_policy(folder, tmp_path / "shipped")
    assert not (tmp_path / "shipped" / "training").exists()
    observation = make_observation(CONFIG)
    whole, half = (next(load_policy(f).predict(observation, actions_only=True)) for f in (folder, tmp_path / "shipped"))
    np.testing.assert_allclose(half.action, whole.action, atol=2e-3)


def test_more_prompts_than_are_remembered(folder, policy, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr("xwam.model.prompt.MAX_ENCODED", 3)
    texts = [f"do thing {number}" for number in range(5)]
    rows = policy.encode_prompts(texts)
    for text, row in zip(texts, rows, strict=True):
        torch.testing.assert_close(policy.encode_prompts([text])[0], row)
    assert [text for text in policy.encoded.texts if text in texts] == texts[-3:]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    policy.save_prompts(copy, texts)
    alone = load_policy(copy)
    alone.encode_prompts([f"another {number}" for number in range(5)])
    assert set(texts) <= set(alone.encoded.texts), "those that came with the checkpoint stay"


def test_a_quaternion_is_read_as_the_rotation_it_is(policy):
    observation = make_observation(CONFIG)
    where = policy.layout.state_slice("left_rotation")
    turned = observation.state.copy()
    turned[where] = -turned[where]
    found, expected = (
        next(policy.predict(seen, seed=5, actions_only=True)).action
        for seen in (replace(observation, state=turned), observation)
    )
    np.testing.assert_array_equal(found, expected)


def test_only_what_was_trained_for_is_answered(policy):
    acting = Policy(replace(CONFIG, modes=("policy",)), policy.normalizer, policy.cameras, policy.networks)
    assert len(list(acting.predict(make_observation(CONFIG), actions_only=True))) == 1
    with pytest.raises(ValueError, match="not trained for 'joint'"):
        next(acting.predict(make_observation(CONFIG)))
    assert policy.has_world
    assert not acting.has_world
    assert "forward_dynamics" in changed(CONFIG, {"clean_action_ratio": 0.2}).modes
    assert "forward_dynamics" not in changed(CONFIG, {"clean_action_ratio": 0.0}).modes
    with pytest.raises(ValueError, match="guidance=0"):
        replace(CONFIG.denoise, guidance=0.0)
