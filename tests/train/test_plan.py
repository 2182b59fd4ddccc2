"""The memory plan against what torch's allocator really hands out while a step runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.train.encoded import EncodedClips, hide
from xwam.cli import main
from xwam.model.weights import save_weights
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
from xwam.train import step
from xwam.train.descend import compute_gradients
from xwam.train.optimizers import make_optimizer, take_step
from xwam.train.options import Setup, changed
from xwam.train.peers import Peers
from xwam.train.plan import make_plan, markdown
from xwam.train.state import make_state

ALONE = Peers(0, 1)
TINY = preset("tiny")
SMALLER = replace(  # tiny, but with fewer blocks and clips
    TINY, model=replace(TINY.model, num_blocks=3), train=replace(TINY.train, batch_size=4, compile=False)
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    model = XWAM(SMALLER.model)
    init_weights(model, torch.Generator().manual_seed(0))
    save_weights(folder / "model.safetensors", model.state_dict())
    return folder


def allocated_at_most(trace) -> int:
    """The highest sum of bytes that the allocator had handed out and not got back, from the profiler's trace."""
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    return int(np.cumsum([e["args"]["Bytes"] for e in sorted(events, key=lambda e: e["ts"])]).max())


@pytest.mark.parametrize(
    "how",
    [
        Setup(),
        Setup(recompute=True, accumulate=2),
        Setup(precision="bfloat16", lora_rank=8),
    ],
    ids=["all weights", "recomputed, in two pieces", "LoRA, bf16"],
)
def test_the_plan_is_what_a_real_step_takes(how, start, tmp_path):
    state = make_state(SMALLER, how, ALONE, torch.device("cpu"), start)
    data = EncodedClips(SMALLER, size=4)

    def run() -> None:
        batch = data.batch(np.arange(4), 0)
        drawn = step.draw(batch, SMALLER, torch.Generator().manual_seed(0))
        compute_gradients(state.model, batch, drawn, data.empty_prompt, SMALLER, ALONE, how)

    run()  # tables that are built once
    state.model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    plan = make_plan(SMALLER, how)
    lasting = plan.weights + plan.resting + plan.average + plan.optimizer
    assert plan.peak - lasting == pytest.approx(allocated_at_most(tmp_path / "trace.json"), rel=0.03)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    assert plan.gradients == sum(g.nbytes for g in gradients)
    take_step(state.model, state.optimizer, 1e-3)
    weights = list(state.model.parameters())
    assert plan.weights == sum(w.nbytes for w in weights if w.requires_grad)
    assert plan.resting == sum(w.nbytes for w in weights if not w.requires_grad)
    assert plan.average == sum(a.nbytes for a in state.average.values())
    moments = [v for s in state.optimizer.state.values() for k, v in s.items() if k != "step"]
    assert plan.optimizer == sum(m.nbytes for m in moments)


def test_the_plan_of_8_bit_moments():
    pytest.importorskip("bitsandbytes")
    model = XWAM(SMALLER.model)
    optimizer = make_optimizer(model, SMALLER.train, "adamw_8bit")
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    take_step(model, optimizer, 1e-3)
    per_weight = ("state1", "state2", "absmax1", "absmax2")
    kept = sum(v.nbytes for s in optimizer.state.values() for k, v in s.items() if k in per_weight)
    assert make_plan(SMALLER, Setup(optimizer="adamw_8bit")).optimizer == kept


def test_the_plan_of_muon():
    model = XWAM(SMALLER.model)
    optimizer = make_optimizer(model, SMALLER.train, "muon")
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    take_step(model, optimizer, 1e-3)
    states = optimizer.state.values()  # one table for Muon and for AdamW
    kept = sum(v.nbytes for state in states for name, v in state.items() if name != "step")
    assert make_plan(SMALLER, Setup(optimizer="muon")).optimizer == kept
    assert kept < make_plan(SMALLER, Setup()).optimizer


def test_what_saves_memory_saves_it_in_the_plan():
    whole, recomputed = make_plan(SMALLER, Setup()), make_plan(SMALLER, Setup(recompute=True))
    assert recomputed.activations < 0.6 * whole.activations
    assert recomputed._replace(activations=0, peak=0) == whole._replace(activations=0, peak=0)
    lora = make_plan(SMALLER, Setup(lora_rank=8))
    assert lora.weights + lora.optimizer < 0.5 * (whole.weights + whole.optimizer)
    assert make_plan(SMALLER, Setup(accumulate=2)).activations < 0.6 * whole.activations
    both = Setup(precision="bfloat16", recompute=True, lora_rank=8)
    assert make_plan(SMALLER, both, device="cuda").activations < make_plan(SMALLER, both).activations, "flash attention"
    shards = make_plan(SMALLER, Setup(shards=0), num_processes=4)
    assert shards.weights == whole.weights // 4
    assert shards.activations < 0.3 * whole.activations


def test_the_command_prints_a_plan_and_needs_no_data(capsys, tmp_path):
    main(["train", "debug", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), "--plan"])
    printed = capsys.readouterr().out
    assert "LoRA 32, recomputed" in printed
    assert "**peak of a step**" in printed
    with torch.device("meta"):
        copy = 4 * sum(weight.numel() for weight in XWAM(preset("debug").model).parameters())
    assert f"Validation keeps a second model ({copy / 1e9:.3f} GB)" in printed
    assert "Validation" not in markdown(changed(preset("debug"), {"validate_every": 0}), Setup(shards=0), 2)
    assert not (tmp_path / "run").exists()


def test_without_peft_there_is_a_plan_of_all_weights(monkeypatch):
    hide(monkeypatch, "peft")
    printed = markdown(preset("debug"), Setup())
    assert "| GB | all weights | all weights, recomputed |" in printed
    assert printed.endswith("Without LoRA: peft is not installed (pip install 'xwam[lora]').")
    assert "LoRA 4, recomputed" in markdown(preset("debug"), Setup(lora_rank=4)), "what is asked for is not left out"
