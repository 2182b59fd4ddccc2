"""The text encoder: cleaning, tokens, padding, files."""

import warnings

import pytest
import torch

from xwam.model.text import TextEncoder, clean_text, transformers_name
from xwam.presets import preset

CONFIG = preset("debug").text
LENGTH = preset("debug").model.text_length


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(CONFIG, LENGTH).eval()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  push \n\t the   ball ", "push the ball"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("the robot\u00e2\u20ac\u2122s cup", "the robot's cup"),
        ("", ""),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean


def test_bytes_become_tokens(encoder):
    ids, mask = encoder.tokenize(["ab", "x" * 100])
    assert ids[0, :4].tolist() == [100, 101, 1, 0]  # byte + 3, end, padding
    assert mask.sum(dim=1).tolist() == [3, LENGTH]  # long texts are cut, and still end
    assert ids[1, -1] == 1


@torch.no_grad()
def test_all_positions_are_answered_and_texts_do_not_mix(encoder):
    both = encoder.encode(["push", "open the door"])
    assert both.shape == (2, LENGTH, CONFIG.width)
    torch.testing.assert_close(both[:1], encoder.encode(["push"]))
    assert both[:, -1].abs().max() > 0  # pads have vectors too
    assert torch.equal(encoder.encode(["  push "]), encoder.encode(["push"]))


@torch.no_grad()
def test_saved_and_loaded(encoder, tmp_path):
    encoder.save(tmp_path / "text")
    again = TextEncoder.load(tmp_path / "text", LENGTH)
    assert torch.equal(again.encode(["press the button", ""]), encoder.encode(["press the button", ""]))
    assert not again.training


def test_the_embedding_is_stored_once(encoder, tmp_path):
    encoder.save(tmp_path / "text")
    again = TextEncoder.load(tmp_path / "text", LENGTH)
    assert again.model.shared.weight is again.model.encoder.embed_tokens.weight


def test_sentencepiece_needs_its_files():
    with pytest.raises(ValueError, match="AutoTokenizer"):
        TextEncoder(preset("wan22_5b").text, 512)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        TextEncoder.load(tmp_path, LENGTH)


def test_unknown_official_names_are_refused():
    assert transformers_name("blocks.3.ffn.fc2.weight") == "encoder.block.3.layer.1.DenseReluDense.wo.weight"
    with pytest.raises(ValueError, match=r"blocks\.0\.other"):
        transformers_name("blocks.0.other.weight")


def test_a_prompt_that_is_cut_is_said(encoder):
    """Bytes, and the end of the text: two that differ only behind it are the same."""
    with pytest.warns(UserWarning, match="is cut at 24 tokens: what follows is lost"):
        left = encoder.encode_prompt("put the cup into the box on the left")
    with pytest.warns(UserWarning, match="is cut"):
        right = encoder.encode_prompt("put the cup into the box on the right")
    assert torch.equal(left, right)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_prompt("put the cup in the box")
