"""What is prepared once: several processes share out the work and the cores; prompts are encoded where it is fast."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.train.encoded import write_frozen
from xwam.model.text import TextEncoder
from xwam.presets import preset
from xwam.train import prompts
from xwam.train.prepare import in_processes


def note_threads(folder: Path, fails: bool, num_threads: int, is_main: bool) -> None:
    torch.set_num_threads(num_threads)
    (folder / f"{os.getpid()}-{is_main}").write_text(str(torch.get_num_threads()))
    if fails and is_main:
        raise RuntimeError("no room left")


@pytest.mark.parametrize(("processes", "share"), [(1, 5), (2, 2), (9, 1)])
def test_processes_share_the_cores(processes, share, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        in_processes(partial(note_threads, tmp_path, False), processes)
        assert torch.get_num_threads() == 5
        with pytest.raises(RuntimeError, match="no room"):
            in_processes(partial(note_threads, tmp_path, True), 1)
        assert torch.get_num_threads() == 5, "whatever ended it"
    finally:
        torch.set_num_threads(before)
    noted = {path.name: path.read_text() for path in tmp_path.iterdir()}
    mine = f"{os.getpid()}-True"
    assert noted.pop(mine) == "5", "the last one, alone"
    assert list(noted.values()) == [str(share)] * (processes - 1)


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
