import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from xwam.model.layers import KeysValues
from xwam.model.xwam import XWAM, init_weights, sinusoid
from xwam.presets import PRESETS, preset
from xwam.tensors import Velocity

GOLDENS = Path(__file__).parents[1] / "goldens"
CONFIG = preset("debug").model


def make_model(config=CONFIG) -> XWAM:
    model = XWAM(config)
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def make_inputs(model: XWAM, batch_size: int = 2, num_views: int = 3, seed: int = 1) -> tuple:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch_size, *shape, generator=generator)

    config = model.config
    levels = torch.rand(2, batch_size, generator=generator)
    prompt = model.prompt_keys_values(normal(6, config.text_width))
    return (normal(config.latent_channels, 2, num_views, 4, 4), normal(5, 16), normal(16, 14), *levels, prompt)


def answer(model: XWAM, inputs: tuple, **settings) -> Velocity:
    with torch.no_grad():
        return model(*inputs, **settings)


def assert_same_bits(found: Velocity, expected: Velocity) -> None:
    for name in ("video", "state", "action"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_the_published_weights_have_the_names_and_shapes_of_ours():
    published = dict(line.split() for line in (GOLDENS / "wan22_5b_weights.txt").read_text().splitlines())
    with torch.device("meta"):
        model = XWAM(preset("wan22_5b").model)
    ours = {name: "x".join(map(str, tensor.shape)) for name, tensor in model.state_dict().items()}
    assert len(published) == 1115
    assert ours == published


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_answers_in_the_shapes_it_was_asked_in(name):
    config = PRESETS[name].model
    with torch.device("meta"):
        model = XWAM(config)
        inputs = (
            torch.empty(2, config.latent_channels, 3, config.num_views, 16, 20),
            torch.empty(2, 9, config.state_width),
            torch.empty(2, 32, config.action_width),
            *torch.empty(2, 2),
            model.prompt_keys_values(torch.empty(2, config.text_length, config.text_width)),
        )
        output = model(*inputs, depth=True)
    assert [t.shape for t in output] == [t.shape for t in (inputs[0], inputs[0], *inputs[1:3])]


def test_depth_changes_no_bit_of_the_rest():
    model = make_model()
    inputs = make_inputs(model)
    plain, deep = answer(model, inputs), answer(model, inputs, depth=True)
    assert plain.depth is None
    assert deep.depth is not None
    assert_same_bits(plain, deep)


def test_actions_only_changes_no_bit_of_the_actions():
    model = make_model()
    inputs = make_inputs(model)
    plain, short = answer(model, inputs), answer(model, inputs, actions_only=True)
    assert short.video is None
    assert torch.equal(plain.action, short.action)
    assert torch.equal(plain.state, short.state)


def test_the_main_branch_learns_nothing_about_depth_and_depth_learns_from_everything():
    model = make_model()
    output = model(*make_inputs(model), depth=True)
    output.depth.square().mean().backward()
    used = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"extra_blocks", "extra_heads", "blocks", "action_encoder", "proprio_encoder", "view_embedding"} <= used
    assert not {"head", "action_decoder", "proprio_decoder"} & used


def test_every_weight_gets_a_gradient():
    model = make_model()
    output = model(*make_inputs(model), depth=True)
    sum(t.square().mean() for t in output).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_given_parts_ignore_their_levels():
    """With all video and actions given, the levels say nothing; with frame 0 given, they still do."""
    model = make_model()
    video, state, action, video_sigma, action_sigma, prompt = make_inputs(model)
    settings = {"given_frames": 2, "given_states": 5, "given_actions": 16}
    one = answer(model, (video, state, action, video_sigma, action_sigma, prompt), **settings)
    other = answer(model, (video, state, action, 1 - video_sigma, action_sigma / 2, prompt), **settings)
    assert_same_bits(one, other)
    clean = answer(model, (video, state, action, 0 * video_sigma, 0 * action_sigma, prompt))
    assert_same_bits(one, clean)
    assert not torch.equal(answer(model, (video, state, action, video_sigma, action_sigma, prompt)).action, one.action)


def test_given_actions_may_differ_between_samples():
    model = make_model()
    inputs = make_inputs(model)
    mixed = answer(model, inputs, given_actions=torch.tensor([0, 7]), depth=True)
    for row, count in enumerate((0, 7)):
        alone = answer(model, inputs, given_actions=count, depth=True)
        for found, expected in zip(mixed, alone, strict=True):
            torch.testing.assert_close(found[row], expected[row])


def test_samples_do_not_see_each_other():
    model = make_model()
    pair = make_inputs(model)
    swapped = tuple(t.flip(0) for t in pair[:-1]), pair[-1]
    flipped_prompt = type(pair[-1])(
        *(tuple(KeysValues(kv.keys.flip(0), kv.values.flip(0)) for kv in branch) for branch in swapped[1])
    )
    found = answer(model, (*swapped[0], flipped_prompt), depth=True)
    for a, b in zip(answer(model, pair, depth=True), found, strict=True):
        torch.testing.assert_close(a, b.flip(0))


def test_fewer_views_than_the_checkpoint_knows():
    model = make_model()
    inputs = make_inputs(model, num_views=2)
    output = answer(model, inputs, depth=True)
    assert output.video.shape == output.depth.shape == inputs[0].shape
    assert_same_bits(output, answer(model, inputs, views=torch.tensor([0, 1])))
    assert not torch.equal(output.video, answer(model, inputs, views=torch.tensor([0, 2])).video)
    with pytest.raises(ValueError, match="4 views"):
        answer(model, make_inputs(model, num_views=4))


def test_without_depth_branch_depth_is_refused():
    model = make_model(replace(CONFIG, num_depth_blocks=0))
    assert answer(model, make_inputs(model)).depth is None
    with pytest.raises(ValueError, match="no depth branch"):
        answer(model, make_inputs(model), depth=True)


def test_bf16_weights_answer_in_float32_and_almost_the_same():
    model = make_model()
    exact = answer(model, make_inputs(model), depth=True)
    model.bfloat16()
    found = answer(model, make_inputs(model), depth=True)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.03 * b.abs().max()


def test_double_precision_goes_through():
    model = make_model().double()
    inputs = make_inputs(make_model())
    prompt = model.prompt_keys_values(torch.randn(2, 6, CONFIG.text_width, dtype=torch.float64))
    output = answer(model, (*(t.double() for t in inputs[:5]), prompt), depth=True)
    assert {t.dtype for t in output} == {torch.float64}


def test_the_sinusoid_has_cosines_first():
    found = sinusoid(torch.tensor([0.0, 250.25], dtype=torch.float64), 8)
    assert found[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    torch.testing.assert_close(found[1, 1], torch.tensor(25.025, dtype=torch.float64).cos())
    torch.testing.assert_close(found[1, 7], torch.tensor(0.25025, dtype=torch.float64).sin())


def test_the_first_draw_is_the_published_one():
    model = make_model(preset("tiny").model)
    weights = model.state_dict()
    assert not any(tensor.any() for name, tensor in weights.items() if name.endswith("bias"))
    for name in ("view_embedding.weight", "action_encoder.0.weight", "proprio_decoder.2.weight", "head.head.weight"):
        assert abs(weights[name].std().item() / 0.02 - 1) < 0.15
    assert abs(weights["extra_heads.0.head.weight"].std().item() / 0.02 - 1) < 0.05
    assert abs(weights["blocks.0.modulation"].std().item() * 192**0.5 - 1) < 0.1
    assert abs(weights["blocks.0.self_attn.q.weight"].std().item() * 192**0.5 - 1) < 0.05
    again = XWAM(preset("tiny").model)
    init_weights(again, torch.Generator().manual_seed(0))
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())


COMPILED = """
from dataclasses import replace
import torch
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
model = XWAM(replace(preset("debug").model, num_blocks=1))
init_weights(model, torch.Generator().manual_seed(0))
inputs = [torch.randn(2, *shape) for shape in ((4, 2, 3, 4, 4), (5, 16), (16, 14), (), ())]
inputs.append(model.prompt_keys_values(torch.randn(2, 6, 16)))
settings = {"depth": True, "given_actions": torch.tensor([0, 3])}
compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
for a, b in zip(model(*inputs, **settings), compiled(*inputs, **settings)):
    assert torch.equal(a, b)
"""


def test_the_whole_forward_is_one_graph():
    """In a process of its own: here every function is wrapped by the shape checker, which compilers cannot read."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=200)
