"""What is saved changes no answer: every saving against plain code that does without it, to 1e-5.

Also held elsewhere: merged padding (model/test_prompt.py); one pass at guidance 1, no head in the last call of an
actions-only request, depth in the last call alone (denoise/test_sampler.py); compiled programs (test_compile.py).
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.against_release import Naive
from tests.model.test_xwam import answer, make_inputs, make_model
from xwam.bench.subject import INSTRUCTION, random_observation, random_policy
from xwam.config import DenoiseConfig
from xwam.denoise.sampler import denoise
from xwam.model.rope import Rotation, angles, positions, rotate, rotation
from xwam.model.tokens import Grid
from xwam.presets import preset
from xwam.tensors import Given, Noisy

CONFIG = preset("debug")


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.fixture(scope="module")
def policy():
    policy = random_policy(CONFIG)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.networks.transformer.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return policy


@torch.no_grad()
def test_a_step_equals_one_with_everything_recomputed_per_token(policy):
    """Time MLPs on every token, prompt keys and values in every block, complex rotation in float64."""
    model = policy.networks.transformer
    *inputs, _ = make_inputs(model, batch_size=1)
    context = policy.encode_prompts([INSTRUCTION])
    expected = Naive(policy).forward(*inputs, context, depth=True)
    found = answer(model, (*inputs, model.prompt_keys_values(context)), depth=True)
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("with_world", [False, True])
def test_a_request_equals_the_release_s_way(policy, with_world):
    """And also: nine copies of the frame through the autoencoder, depth and the video's head in every call."""
    theirs, film = Naive(policy).request(3, with_world=with_world)
    answers = list(policy.predict(random_observation(policy, 0), seed=3, actions_only=not with_world))
    expected = policy.normalizer.denormalize_action(theirs.action[0].numpy())
    close(torch.from_numpy(answers[0].action), torch.from_numpy(expected))
    if film is not None:
        num_views = len(CONFIG.view_names)
        bytes_of = ((film[:num_views] + 1) * 127.5).round().movedim(1, -1)
        assert (bytes_of[:, 1:] - torch.from_numpy(answers[1].video[:, 1:]).float()).abs().max() <= 1


@torch.no_grad()
def test_one_frame_equals_nine_copies_of_it(policy):
    frame = torch.rand(2, 3, 1, 32, 48) * 2 - 1
    vae = policy.networks.vae
    close(vae.encode(frame), vae.encode(frame.expand(-1, -1, 9, -1, -1))[:, :, :1])


def test_rotation_in_float32_equals_complex_numbers_in_float64():
    grid, config = Grid(3, 2, 4, 5, 16, 5), preset("tiny").model
    width = config.width // config.num_heads
    table = rotation(grid, config, torch.device("cpu"))
    assert table.cos is rotation(grid, config, torch.device("cpu")).cos, "the table is built once per shape"
    assert table.cos.dtype == torch.float32
    angle = angles(positions(grid, config.frames_per_latent, config.actions_per_frame), width)
    x = torch.randn(2, len(angle), config.num_heads, width)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    expected = torch.view_as_real(torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * turn).flatten(-2)
    close(rotate(x, Rotation(*table)), expected.float())


def test_a_known_instruction_costs_no_encoder_and_no_keys(policy, monkeypatch):
    observation = random_observation(policy, 0)
    first = next(policy.predict(observation, seed=1))

    def never(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(policy.text, "encode", never)
    monkeypatch.setattr(policy.networks.transformer, "prompt_keys_values", never)
    close(torch.from_numpy(next(policy.predict(observation, seed=1)).action), torch.from_numpy(first.action))


def noisy(seed: int) -> Noisy:
    generator = torch.Generator().manual_seed(seed)
    return Noisy(*(torch.randn(s, generator=generator) for s in ((1, 4, 2, 3, 4, 4), (1, 5, 16), (1, 16, 14))))


class NoWaiting(TorchDispatchMode):
    """Refuses every operation for which the host would have to wait for the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "unique", "masked_select", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        assert name not in self.WAITING, f"{name} makes the host wait"
        return func(*args, **(kwargs or {}))


def test_the_loop_never_waits_for_the_device(policy):
    model = make_model()
    *_, prompt = make_inputs(model, batch_size=1)

    def call(sample, levels, *, depth, video):
        return model(*sample, *levels, prompt, depth=depth, actions_only=not video)

    steps = DenoiseConfig(num_video_steps=5, num_action_steps=3, shift=5.0, guidance=1.0)
    with NoWaiting():
        assert len(list(denoise(call, noisy(0), config=steps, given=Given()))) >= 2
    with pytest.raises(AssertionError, match="makes the host wait"), NoWaiting():
        torch.ones(1).item()
