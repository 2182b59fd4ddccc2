"""Prompts are encoded once, where it is fast."""

import pytest
import torch

from tests.train.encoded import write_frozen
from xwam.model.text import TextEncoder
from xwam.presets import preset
from xwam.train import prompts


def test_prompts_go_on_where_they_were_interrupted(tmp_path, monkeypatch):
    config = preset("debug")
    write_frozen(tmp_path, config)
    words, asked, devices = ["", "close it", "open it", "push it"], [], []
    encode, to = TextEncoder.encode_prompt, TextEncoder.to

    def interrupted(encoder, text):
        if asked == words[:2]:
            raise KeyboardInterrupt
        asked.append(text)
        return encode(encoder, text)

    def watched(encoder, device):
        devices.append(device)
        return to(encoder, "cpu")

    def encoded():
        return prompts.encoded_prompts(words, tmp_path, tmp_path / "prompts.safetensors", 24, "cuda:1")

    monkeypatch.setattr(prompts, "SECONDS_AT_RISK", 0)
    monkeypatch.setattr(TextEncoder, "to", watched)
    monkeypatch.setattr(TextEncoder, "encode_prompt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoded()
    asked.clear()
    found = encoded()
    assert asked == words[2:]
    assert devices == ["cuda:1", "cuda:1"]
    encoder = TextEncoder.load(tmp_path / "text", 24)
    assert list(found) == words
    assert all(torch.equal(found[text], encoder.encode([text])[0]) for text in words)
    assert encoded().keys() == found.keys()
    assert len(devices) == 2, "what is known needs no encoder"
