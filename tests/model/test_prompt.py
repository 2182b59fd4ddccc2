"""Prompts with merged padding answer as whole ones do; prepared ones are remembered and joined."""

import pytest
import torch
from transformers import ByT5Tokenizer

from tests.model.test_xwam import answer, make_inputs, make_model
from xwam.config import TextConfig
from xwam.model.prompt import MAX_REMEMBERED, SHORT, PromptMemory, join, merge_padding
from xwam.model.text import TextEncoder

LENGTH, EDGE = 512, 91  # EDGE: the first distance that UMT5 puts into its last bucket


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    config = TextConfig(
        tokenizer="bytes", vocab_size=384, width=16, head_width=8, ffn_width=32, num_blocks=2, num_heads=2
    )
    return TextEncoder(config, LENGTH, ByT5Tokenizer()).eval()


@torch.no_grad()
def encode(encoder: TextEncoder, text: str) -> torch.Tensor:
    return encoder.encode([text])[0]


def test_pads_far_from_the_last_word_are_the_same_vector(encoder):
    text = "press the button"
    rows, last_word = encode(encoder, text), len(text)  # bytes, then the end mark
    assert torch.equal(rows[last_word + EDGE :], rows[-1:].expand(LENGTH - last_word - EDGE, -1))
    assert not torch.equal(rows[last_word + EDGE - 1], rows[-1])


@pytest.mark.parametrize("text", ["", "press the button", "a" * 99])
def test_merged_padding_changes_no_answer(encoder, text):
    model, context = make_model(), encode(encoder, text)
    *inputs, _ = make_inputs(model, batch_size=1)
    with torch.no_grad():
        short, bias = merge_padding(context)
        assert len(short) == SHORT
        whole = answer(model, (*inputs, model.prompt_keys_values(context[None])), depth=True)
        merged = answer(model, (*inputs, model.prompt_keys_values(short[None], bias[None])), depth=True)
    for a, b in zip(whole, merged, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())
    # And the bias is needed: without it the padding would weigh less.
    with torch.no_grad():
        wrong = answer(model, (*inputs, model.prompt_keys_values(short[None])))
    assert (wrong.video - whole.video).abs().max() > 1e-5 * whole.video.abs().max()


def test_a_long_prompt_stays_whole(encoder):
    context = encode(encoder, "a" * 101)
    found, bias = merge_padding(context)
    assert found is context
    assert bias is None


def test_prompts_of_both_lengths_share_a_batch(encoder):
    model = make_model()
    *inputs, _ = make_inputs(model, batch_size=3)
    texts = ["press the button", "a" * 200, ""]
    with torch.no_grad():
        whole = model.prompt_keys_values(torch.stack([encode(encoder, text) for text in texts]))
        parts = []
        for text in texts:
            context, bias = merge_padding(encode(encoder, text))
            parts.append(model.prompt_keys_values(context[None], None if bias is None else bias[None]))
    joined = join(parts)
    assert joined.blocks[0].keys.shape[2] == LENGTH
    for a, b in zip(answer(model, (*inputs, whole)), answer(model, (*inputs, joined)), strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_prepared_prompts_are_remembered_until_the_weights_change(encoder):
    model, memory, encoded = make_model(), PromptMemory(), []

    def encode_all(texts):
        encoded.extend(texts)
        return encode(encoder, texts[0])[None]

    first = memory.prepare(model, ["reach", "push", "reach"], encode_all)
    again = memory.prepare(model, ["reach", "push", "reach"], encode_all)
    assert encoded == ["reach", "push"]
    assert torch.equal(first.blocks[-1].values, again.blocks[-1].values)
    assert torch.equal(first.blocks[-1].values[0], first.blocks[-1].values[2])

    model.load_state_dict({name: 2 * tensor for name, tensor in model.state_dict().items()})
    changed = memory.prepare(model, ["reach"], encode_all)
    assert encoded == ["reach", "push", "reach"]
    assert not torch.equal(changed.blocks[0].keys, first.blocks[0].keys[:1])

    for number in range(2 * MAX_REMEMBERED):
        memory.prepare(model, ["reach", f"other {number}"], encode_all)
    assert encoded.count("reach") == 2, "what is always asked for is never forgotten"

    memory.prepare(model, [str(number) for number in range(MAX_REMEMBERED)], encode_all)
    memory.prepare(model, ["reach"], encode_all)
    assert encoded[-1] == "reach", "the oldest prompt must have been forgotten"
