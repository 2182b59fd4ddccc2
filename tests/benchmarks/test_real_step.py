"""A real step on random weights, as a GPU will be asked for it; here on the CPU."""

import json

import pytest

from benchmarks.real_step import RealStep, run
from xwam.train.options import Setup


@pytest.mark.parametrize("how", [Setup(), Setup(lora_rank=2, recompute=True, accumulate=2)], ids=["whole", "LoRA"])
def test_a_step_is_timed_and_its_plan_is_told(how, tmp_path):
    out = tmp_path / "step.json"
    found = run(RealStep(preset="debug", batch_size=2, steps=1, device="cpu", out=out, how=how))
    assert json.loads(out.read_text()) == found
    assert found["samples_per_second"] > 0
    assert 0 < found["planned_peak_gb"] < 0.1
