import pytest
import torch
from torch.nn import functional

from xwam.model.layers import Block, Head, KeysValues, LayerNorm, RmsNorm, WideMlp, attention, gelu_mlp
from xwam.model.rope import Rotation
from xwam.model.tokens import (
    ACTION_LEVEL,
    CLEAN_LEVEL,
    VIDEO_LEVEL,
    Grid,
    grid_of,
    patchify,
    per_token,
    token_levels,
    unpatchify,
)

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patches_are_what_the_convolution_sees():
    video = normal(2, 4, 3, 2, 4, 6)
    convolution = torch.nn.Conv3d(4, 10, (1, 2, 2), stride=(1, 2, 2))
    found = functional.linear(patchify(video, (1, 2, 2)), convolution.weight.flatten(1), convolution.bias)
    by_view = [convolution(video[:, :, :, view]) for view in range(2)]
    expected = torch.stack(by_view, dim=3).permute(0, 2, 3, 4, 5, 1).reshape(2, -1, 10)  # frame, view, row, column
    torch.testing.assert_close(found, expected)


def test_unpatchify_undoes_patchify_once_the_channels_come_last():
    video, patch = normal(2, 4, 2, 3, 4, 6), (1, 2, 2)
    grid = grid_of(video, normal(2, 9, 16), normal(2, 32, 14), patch)
    assert grid == Grid(2, 3, 2, 3, 32, 9)
    patches = patchify(video, patch).unflatten(-1, (4, 4)).transpose(-1, -2).flatten(-2)
    assert torch.equal(unpatchify(patches, grid, patch), video)


def test_given_tokens_have_the_clean_level():
    grid = Grid(frames=2, views=1, rows=1, columns=2, actions=3, states=2)
    v, a, c = VIDEO_LEVEL, ACTION_LEVEL, CLEAN_LEVEL
    assert token_levels(grid, 1, 1, 0, CPU).tolist() == [[c, c, v, v, a, a, a, c, a]]
    assert token_levels(grid, 0, 0, 0, CPU).tolist() == [[v, v, v, v, a, a, a, a, a]]
    assert token_levels(grid, 2, 1, torch.tensor([0, 2]), CPU).tolist() == [
        [c, c, c, c, a, a, a, c, a],
        [c, c, c, c, c, c, a, c, a],
    ]


@pytest.mark.parametrize("per_sample", [False, True])
def test_per_token_is_a_lookup(per_sample):
    rows, levels = normal(2, 3, 5), torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])[: 2 if per_sample else 1]
    found = per_token(rows, levels)
    for b in range(2):
        assert torch.equal(found[b], rows[b, levels[b if per_sample else 0]])


def test_norms_are_the_textbook_ones():
    x, rms, layer = normal(2, 3, 8), RmsNorm(8), LayerNorm(8)
    torch.testing.assert_close(rms(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    centred = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(layer(x), centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt())


def test_attention_is_a_softmax_over_everything_seen():
    query, keys, values = normal(3, 2, 4, 5, 6).unbind(0)
    weights = (query @ keys.transpose(-1, -2) / 6**0.5).softmax(-1)
    expected = (weights @ values).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(attention(query, KeysValues(keys, values)), expected)
    half = attention(query, KeysValues(keys.bfloat16(), values.bfloat16()))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.02, rtol=0.02)


def block_and_inputs() -> tuple[Block, tuple]:
    torch.manual_seed(0)
    block = Block(12, 24, 2)
    turn = Rotation(torch.ones(5, 3), torch.zeros(5, 3))
    prompt = block.prompt_keys_values(normal(2, 4, 12, seed=3))
    return block, (normal(2, 5, 12), normal(2, 3, 6, 12, seed=1), torch.tensor([[2, 0, 0, 1, 2]]), turn, prompt)


def test_closed_gates_leave_only_the_prompt():
    block, (x, _, levels, turn, prompt) = block_and_inputs()
    found, _ = block(x, torch.zeros(2, 3, 6, 12), levels, turn, prompt)
    torch.testing.assert_close(found, x + block.cross_attn(block.norm3(x), prompt))


def test_keys_and_values_of_another_block_are_attended_to():
    block, inputs = block_and_inputs()
    alone, own = block(*inputs)
    twice, _ = block(*inputs, own)  # the same keys again: every weight is halved, nothing changes
    torch.testing.assert_close(alone, twice)
    other, _ = block(*inputs, KeysValues(own.keys, own.values + 1))
    assert not torch.allclose(alone, other, atol=1e-3)


def test_the_stream_is_float32_even_if_the_weights_are_not():
    block, inputs = block_and_inputs()
    exact, _ = block(*inputs)
    block.bfloat16()
    prompt = block.prompt_keys_values(normal(2, 4, 12, seed=3))
    found, keys_values = block(*inputs[:-1], prompt)
    assert found.dtype == torch.float32
    assert {t.dtype for t in (*keys_values[:2], *prompt[:2])} == {torch.bfloat16}
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0.02)
    head = Head(12, 8).bfloat16()
    assert head(found, normal(2, 3, 12), inputs[2]).dtype == torch.float32


def test_the_time_mlp_stays_float32_under_autocast_and_with_bf16_weights():
    mlp = WideMlp(torch.nn.Linear(6, 6), torch.nn.SiLU(), torch.nn.Linear(6, 6))
    x = normal(2, 6)
    expected = torch.nn.Sequential(*mlp)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mlp(x), expected)
    assert mlp.bfloat16()(x).dtype == torch.float32


def test_the_gelu_is_the_tanh_one():
    mlp = gelu_mlp(3, 4, 2)
    inside = mlp[0](normal(5, 3))
    gelu = 0.5 * inside * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inside + 0.044715 * inside**3)))
    torch.testing.assert_close(mlp(normal(5, 3)), mlp[2](gelu))
