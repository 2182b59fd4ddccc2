"""Few demonstrations of a new task: every way is trained, scored, kept, and drawn."""

import json
from xml.etree import ElementTree

import pytest
from safetensors.torch import load_file

from benchmarks import finetune
from benchmarks.finetune import Finetune
from tests.sim.fake_env import make_fake
from xwam.data.clips import split_episodes

pytest.importorskip("peft")


def test_three_ways_from_two_demonstrations(trained, tmp_path):
    _, last = trained
    settings = Finetune(
        checkpoint=last, out=tmp_path, task="fake-reach", demonstrations=(2,), steps=1, batch_size=2, every=16,
        lora_rank=2, precision="float32", episodes=0, clips=1, workers=1,
    )  # fmt: skip
    found = finetune.run(settings, make_fake)
    assert list(found) == [("prior", 0), ("full", 2), ("lora", 2), ("scratch", 2)]
    assert all(point["action_position_m"] > 0 for point in found.values())
    weights = {way: load_file(tmp_path / f"{way}-2" / "policy" / "model.safetensors") for way, n in found if n}
    start = load_file(last / "model.safetensors")
    name = "blocks.0.norm3.weight"  # rests in LoRA, moves a little in full training
    assert (weights["lora"][name] == start[name]).all()
    assert (weights["full"][name] != start[name]).any()
    away = {way: (w["patch_embedding.weight"] - start["patch_embedding.weight"]).norm() for way, w in weights.items()}
    assert 0 == away["lora"] < away["full"]
    assert away["scratch"] > 2 * away["full"], "scratch does not begin at the checkpoint"
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + 4
    assert len(json.loads((tmp_path / "points.json").read_text())) == 4
    assert ElementTree.fromstring((tmp_path / "finetune.svg").read_text()) is not None
    with pytest.raises(ValueError, match="another steps"):
        finetune.run(Finetune(**(vars(settings) | {"steps": 2})), make_fake)


def test_held_out_episodes_come_on_top():
    for count in (2, 10, 25, 50):
        training, held_out = split_episodes(finetune.recorded(count))
        assert len(training) == count
        assert held_out
