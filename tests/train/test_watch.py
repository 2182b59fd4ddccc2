"""What is looked at while a run learns, and runs that an earlier version saved."""

import json
import shutil

import pytest
import torch

from tests.train.encoded import EncodedClips
from tests.train.test_loop import CONFIG, losses_of, make_run
from xwam.model.xwam import XWAM, init_weights
from xwam.train import checkpoint, export, loop
from xwam.train.options import Setup, Watch
from xwam.train.saving import load_state
from xwam.train.setup import World
from xwam.train.state import make_state
from xwam.train.validate import make_closed_loop, together


def test_the_closed_loop_is_played_with_the_averaged_weights(tmp_path):
    pytest.importorskip("metaworld")
    run = make_run(tmp_path)
    watch = Watch(evaluate_tasks=("reach-v3",), evaluate_episodes=1, evaluate_max_steps=8)
    model = XWAM(CONFIG.model)
    init_weights(model, torch.Generator().manual_seed(0))
    look = together([make_closed_loop(CONFIG, run, watch), lambda average, now: {"step": float(now)}])
    numbers = look(model.state_dict(), 7)
    assert numbers.keys() == {"success", "success/reach-v3", "step"}
    kept = json.loads((run.out / "closed-loop" / "step-0000007.json").read_text())
    assert kept["episodes"][0]["num_steps"] == 8 or kept["episodes"][0]["success"]


def test_a_run_of_the_earlier_layout_is_exported_and_goes_on(tmp_path):
    data = EncodedClips(CONFIG, size=7)
    whole, later = make_run(tmp_path, "whole"), make_run(tmp_path, "later")
    loop.train(CONFIG, data, whole)
    four = whole.out / "step-0000004"
    state = make_state(CONFIG, Setup(), World(0, 1), torch.device("cpu"), None)
    assert load_state(four, state) == 4
    old = tmp_path / "old" / "step-0000004"
    shutil.copytree(four, old, ignore=shutil.ignore_patterns("training"))
    checkpoint.save_training(old, state, 4)
    assert sorted(p.name for p in (old / "training").glob("*.safetensors")) == [
        "average.safetensors", "optimizer.safetensors", "weights.safetensors",
    ]  # fmt: skip
    export.export_policy(old, tmp_path / "shipped", dtype=torch.float32)
    shipped, average = (checkpoint.load_file(f / "model.safetensors") for f in (tmp_path / "shipped", four))
    assert all(torch.equal(shipped[name], average[name]) for name in average)
    export.export_state(old, later.out / old.name)
    loop.train(CONFIG, data, later)
    for got, expected in zip(losses_of(later), losses_of(whole)[4:], strict=True):
        assert got["loss/depth"] == expected["loss/depth"]
        assert got["gradient_norm"] == expected["gradient_norm"]
