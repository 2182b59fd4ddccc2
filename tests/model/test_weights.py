import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xwam.model.shards import Drawn, plan_shards, write_index
from xwam.model.weights import load_weights, save_weights
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset

CONFIG = preset("debug").model


def small_model() -> XWAM:
    model = XWAM(CONFIG)
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def test_weights_come_back_bit_for_bit(tmp_path):
    model = small_model()
    save_weights(tmp_path / "model.safetensors", model.state_dict())
    found = load_weights(tmp_path / "model.safetensors", CONFIG)
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.device.type == "cpu" for p in found.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"], "no temporary file stays"


def test_half_the_bytes_in_bf16(tmp_path):
    model = small_model()
    save_weights(tmp_path / "model.safetensors", model.state_dict(), dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    found = load_weights(tmp_path / "model.safetensors", CONFIG, dtype=torch.bfloat16)
    assert torch.equal(found.head.head.weight, model.head.head.weight.bfloat16())


def test_the_depth_branch_may_stay_on_disk(tmp_path):
    model = small_model()
    save_weights(tmp_path / "model.safetensors", model.state_dict())
    found = load_weights(tmp_path / "model.safetensors", CONFIG, depth=False)
    assert found.config == replace(CONFIG, num_depth_blocks=0)
    assert not any(name.startswith("extra") for name in found.state_dict())


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = small_model().state_dict()
    weights["head.bias"] = weights.pop("head.head.bias")
    weights["blocks.0.ffn.0.bias"] = torch.zeros(3)
    save_weights(tmp_path / "model.safetensors", weights)
    with pytest.raises(ValueError, match="do not fit") as error:
        load_weights(tmp_path / "model.safetensors", CONFIG)
    for part in (
        "1 unexpected: head.bias",
        "1 missing: head.head.bias",
        "1 mis-shaped: blocks.0.ffn.0.bias (3,) (must be (64,))",
    ):
        assert part in str(error.value)


def test_a_long_list_of_names_is_cut(tmp_path):
    save_weights(tmp_path / "model.safetensors", {"head.head.bias": torch.zeros(16)})
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load_weights(tmp_path / "model.safetensors", CONFIG)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path, shared = tmp_path / "model.safetensors", torch.zeros(4)
    save_weights(path, {"a": torch.ones(2)})
    with pytest.raises(RuntimeError):
        save_weights(path, {"a": shared, "b": shared})
    assert load_file(path)["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_weights(tmp_path / "model.safetensors", CONFIG)


def write_shards(folder: Path, model: XWAM, max_bytes: int) -> int:
    """The model's weights in several files; returns how many."""
    tensors = {n: Drawn(t.dtype, tuple(t.shape), lambda t=t: t) for n, t in model.state_dict().items()}
    shards = plan_shards(folder, tensors, max_bytes)
    for shard in shards:
        shard.write(lambda size: None)
    write_index(folder, shards)
    return len(shards)


def test_weights_in_several_files_are_the_same(tmp_path):
    model = small_model()
    assert write_shards(tmp_path, model, 100_000) > 2
    found = load_weights(tmp_path / "model.safetensors", CONFIG)
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    last = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(FileNotFoundError, match=last.name):
        load_weights(tmp_path / "model.safetensors", CONFIG)


def memory(line: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(text.split()[1]) for text in status if text.startswith(f"{line}:"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_needs_the_weights_and_one_file(tmp_path):
    config = replace(CONFIG, width=512, ffn_width=4096, num_blocks=8, num_depth_blocks=4)
    with torch.device("meta"):
        model = XWAM(config)
    model.to_empty(device="cpu")
    num_bytes = sum(t.nbytes for t in model.parameters())
    assert write_shards(tmp_path, model, 60_000_000) > 4
    del model
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    found = load_weights(tmp_path / "model.safetensors", config, dtype=torch.bfloat16)
    needed = memory("VmHWM") - before
    assert found.head.head.weight.dtype == torch.bfloat16
    assert num_bytes > 300e6
    assert needed < num_bytes / 2 + 2 * 60e6, f"{needed / 1e6:.0f} MB for {num_bytes / 2e6:.0f} MB of weights"
