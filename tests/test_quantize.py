"""Quantised blocks answer almost the same, in every kind; nothing but blocks is touched."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from tests.examples import make_normalizer, make_observation
from tests.model.test_xwam import answer, make_inputs, make_model
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM
from xwam.policy import Networks, Policy
from xwam.presets import preset
from xwam.quantize import KINDS, quantize_blocks, quantized

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="pip install 'xwam[quantize]'")


# Of a weight's digits, float8 (e4m3) keeps 4 bits: a sixteenth at worst. int8 keeps 8 of the largest in its row.
BOUNDS = {"int8-dynamic": 0.05, "int8-weights": 0.05, "float8-weights": 0.1}


@needs_torchao
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


@needs_torchao
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


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_differentiable_where_its_products_carry_gradients(kind):
    model = make_model().requires_grad_(False)
    linear = model.blocks[0].self_attn.q
    quantize_blocks(model, kind)
    x = torch.randn(2, linear.in_features, requires_grad=True)
    assert linear(x).requires_grad == (kind != "int8-dynamic")


@pytest.mark.parametrize("kind", KINDS)
def test_integers_refuse_to_steer(kind, monkeypatch):
    """Whatever torchao does to the blocks: the fact is noted, and a prefix that needs gradients is refused."""
    monkeypatch.setattr("xwam.quantize.quantize_blocks", lambda model, kind: None)
    config = preset("debug")
    config = replace(config, noise=replace(config.noise, max_prefix=0))
    text = TextEncoder(config.text, config.model.text_length)
    networks = Networks(XWAM(config.model), VideoVae(config.vae), lambda: text)
    policy = quantized(Policy(config, make_normalizer(), {}, networks), kind)
    ask = {"prefix": np.zeros((4, 14), np.float32), "actions_only": True}
    if kind != "int8-dynamic":
        assert len(list(policy.predict(make_observation(config), **ask))) == 1
        return
    with pytest.raises(ValueError, match="int8-dynamic carries no gradient"):
        next(policy.predict(make_observation(config), **ask))
    assert len(list(policy.predict(make_observation(config), actions_only=True))) == 1
