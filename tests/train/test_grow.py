"""A larger model that holds a trained one: the same numbers before it learns on, and free to learn after."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from xwam.model.weights import load_weights
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
from xwam.train.adapt import adapted, with_frozen_of
from xwam.train.grow import check_grows, grown

OLD = preset("debug").model
LARGER = {
    "three times as wide": replace(OLD, width=96, num_heads=6, ffn_width=192),
    "more in the ffn": replace(OLD, ffn_width=100),
    "finer waves": replace(OLD, sinusoid_width=96),
    "more blocks": replace(OLD, num_blocks=7),
    "all of it": replace(
        OLD, width=64, num_heads=4, ffn_width=160, num_blocks=7, num_depth_blocks=3, sinusoid_width=64
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    """A model of which no weight is zero or one, as after training."""
    generator = torch.Generator().manual_seed(0)
    model = XWAM(OLD)
    init_weights(model, generator)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def larger_model(trained, config, seed=1):
    generator = torch.Generator().manual_seed(seed)
    model = XWAM(config)
    model.load_state_dict(grown(trained.state_dict(), OLD, config, generator))
    return model


def outputs(model):
    """Everything that a model says of the same random inputs, in float64 where it computes so."""
    config = model.config
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    model = model.double()
    prompt = model.prompt_keys_values(draw(2, 5, config.text_width))
    return model(
        draw(2, config.latent_channels, 2, 3, 2, 2), draw(2, 5, config.state_width), draw(2, 16, config.action_width),
        torch.tensor([0.3, 0.9]), torch.tensor([0.7, 0.2]), prompt, given_actions=2, depth=True,
    )  # fmt: skip


@pytest.mark.parametrize("config", LARGER.values(), ids=list(LARGER))
def test_it_computes_the_same(trained, config):
    expected, found = outputs(trained), outputs(larger_model(trained, config))
    for name in expected._fields:
        # The table of rotations is float32, and so is what it turns: no better than that.
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5, msg=name)


def gradients(model):
    model.zero_grad()
    torch.stack([part.square().mean() for part in outputs(model)]).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_copies_learn_apart_and_new_parts_learn_too(trained):
    """At once what writes the stream learns apart; with that the copies differ, and so what reads them learns apart."""
    model = larger_model(trained, LARGER["all of it"])
    first = gradients(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight -= 0.1 * first[name]
    second = gradients(model)
    for name in ("blocks.0.self_attn.o.weight", "blocks.6.ffn.2.weight", "extra_blocks.0.0.cross_attn.o.weight"):
        one, other = first[name].chunk(2, dim=0)
        assert (one - other).norm() > 0.1 * one.norm(), f"{name}: both copies of its rows learn the same"
        one, other = second[name.replace(".o.", ".q.").replace(".2.", ".0.")].chunk(2, dim=1)
        assert (one - other).norm() > 0.01 * one.norm(), f"{name}: both copies of what it reads are the same"
    for name in ("blocks.3.self_attn.o.weight", "blocks.5.ffn.2.weight", "extra_blocks.0.1.ffn.2.weight"):
        assert first[name].norm() > 0, f"{name}: a new block does not learn"


def test_old_blocks_keep_their_order_and_their_depth_blocks(trained):
    """Two blocks without, one with a depth block beside it, in four and three."""
    weights = grown(trained.state_dict(), OLD, replace(OLD, num_blocks=7, num_depth_blocks=3), torch.Generator())
    old = trained.state_dict()
    name = "{}.self_attn.q.weight"
    found = [weights[name.format(f"blocks.{n}")] for n in range(7)]
    assert [[torch.equal(w, old[name.format(f"blocks.{n}")]) for n in range(3)].index(True) for w in found] == [
        0, 0, 1, 1, 2, 2, 2
    ]  # fmt: skip
    silent = [bool((weights[f"blocks.{n}.ffn.2.weight"] == 0).all()) for n in range(7)]
    assert silent == [False, True, False, True, False, True, True]
    assert [bool((weights[f"extra_blocks.0.{n}.ffn.2.weight"] == 0).all()) for n in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 48, "num_heads": 3}, "width=48, start has 32"),
        ({"width": 64}, "num_heads=2, start has 2"),
        ({"width": 64, "num_heads": 4}, "ffn_width=64, start has 64: must be at least 128"),
        ({"sinusoid_width": 48}, "sinusoid_width=48"),
        ({"num_depth_blocks": 0}, "depth branch"),
        ({"num_depth_blocks": 2}, "may become fewer"),
        ({"num_blocks": 2}, "may become fewer"),
        ({"patch_size": (1, 1, 1)}, "patch_size=(1, 1, 1), start has (1, 2, 2): must be the same"),
    ],
)
def test_what_does_not_grow_is_refused(change, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        check_grows(OLD, replace(OLD, **change))
    check_grows(OLD, OLD)


def test_small_starts_from_the_shipped_checkpoint(tmp_path):
    """The preset grows; autoencoder and text encoder, and with them the sizes of what they give, are the start's."""
    start = Path(__file__).parents[2] / "checkpoints/tiny"
    config = with_frozen_of(start, preset("small"))
    assert (config.vae, config.text) == (preset("tiny").vae, preset("tiny").text)
    folder = adapted(start, config, tmp_path / "start")
    assert json.loads((folder / "config.json").read_text())["model"]["width"] == 384
    assert (folder / "vae/model.safetensors").read_bytes() == (start / "vae/model.safetensors").read_bytes()
    small = load_weights(folder / "model.safetensors", config.model)
    tiny = load_weights(start / "model.safetensors", preset("tiny").model)
    expected, found = outputs(tiny), outputs(small)
    for name in expected._fields:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4, msg=name)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert adapted(start, config, folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made, "made once"
    with pytest.raises(ValueError, match=r"preset 'tiny'\) does not fit into 'mini': width=128, start has 192"):
        adapted(start, with_frozen_of(start, preset("mini")), tmp_path / "other")
