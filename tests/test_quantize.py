"""Quantised blocks answer almost the same, in every kind; nothing but blocks is touched."""

import pytest
import torch
from torch import nn

from tests.model.test_xwam import answer, make_inputs, make_model
from xwam.quantize import KINDS, quantize_blocks

pytest.importorskip("torchao", reason="pip install 'xwam[quantize]'")


# Of a weight's digits, float8 (e4m3) keeps 4 bits: a sixteenth at worst. int8 keeps 8 of the largest in its row.
BOUNDS = {"int8-dynamic": 0.05, "int8-weights": 0.05, "float8-weights": 0.1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_answers_almost_the_same(kind):
    model = make_model()
    inputs = make_inputs(model)
    exact = answer(model, inputs, depth=True)
    quantize_blocks(model, kind)
    found = answer(model, make_inputs(model), depth=True)
    for a, b in zip(found, exact, strict=True):
        assert not torch.equal(a, b), "nothing was quantised"
        assert (a - b).abs().max() < BOUNDS[kind] * b.abs().max()


def test_only_the_blocks_change():
    model = make_model()
    before = {name: type(module.weight.data) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantize_blocks(model, "int8-weights")
    after = {name: type(module.weight.data) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.startswith(("blocks.", "extra_blocks."))}


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="int8-dynamic"):
        quantize_blocks(make_model(), "int8-dynamics")
