"""Muon: what it steps and how, what it remembers, what it refuses."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
from xwam.train.optimizers import (
    Muon,
    is_block_matrix,
    is_convolution,
    make_optimizer,
    moments,
    set_moments,
    take_step,
)
from xwam.train.options import Setup

CONFIG = preset("debug")
QUERY = "blocks.0.self_attn.q.weight"


def make_model() -> XWAM:
    model = XWAM(CONFIG.model)
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_small_directions_of_a_gradient_are_learned_as_fast_as_large_ones():
    """A query's gradient with singular values from 1 to 1/100; all that is no matrix of a block moves as with AdamW."""
    moved = {}
    for name in ("adamw", "muon"):
        model = make_model()
        weights = dict(model.named_parameters())
        before = {n: w.detach().clone() for n, w in weights.items()}
        optimizer = make_optimizer(model, replace(CONFIG.train, weight_decay=0.0), name)
        give_gradients(model, seed=1)
        left, _, right = torch.linalg.svd(weights[QUERY].grad)
        weights[QUERY].grad = left @ torch.logspace(0, -2, len(left)).diag() @ right
        take_step(model, optimizer, 1e-3)
        moved[name] = {n: w.detach() - before[n] for n, w in weights.items()}
    along = {name: (left.T @ moved[name][QUERY] @ right.T).diag().abs() for name in moved}
    assert along["muon"].max() < 2 * along["muon"].min()
    assert along["adamw"].max() > 5 * along["adamw"].min()
    same = {n for n in before if torch.equal(moved["muon"][n], moved["adamw"][n])}
    assert same == {n for n, weight in before.items() if not is_block_matrix(n, weight)}
    assert {"patch_embedding.weight", "action_encoder.0.weight", "blocks.0.modulation", "head.head.weight"} <= same


def test_its_numbers_are_those_of_torch():
    """Tall, wide and square matrices, with weight decay and momentum, over three steps."""
    mine, theirs = make_model(), make_model()
    optimizer = make_optimizer(mine, CONFIG.train, "muon")
    matrices = {n: w for n, w in theirs.named_parameters() if is_block_matrix(n, w)}
    reference = torch.optim.Muon(
        matrices.values(), lr=1e-3, weight_decay=CONFIG.train.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    before = {n: w.detach().clone() for n, w in matrices.items()}
    for seed in range(3):
        give_gradients(mine, seed)
        give_gradients(theirs, seed)
        take_step(mine, optimizer, 1e-3)
        reference.step()
    found = dict(mine.named_parameters())
    assert {w.shape for w in matrices.values()} >= {(32, 32), (64, 32), (32, 64)}
    for name, weight in matrices.items():
        moved = (weight - before[name]).abs().max()
        assert (found[name] - weight).abs().max() < 0.02 * moved, name  # products in bf16


def test_a_convolution_is_a_matrix_with_a_row_for_each_output():
    """As torch steps the flattened weight; the norms and the last convolution are left to AdamW."""
    torch.manual_seed(0)
    vae = VideoVae(preset("debug").vae)
    rate = {"learning_rate": 1e-3, "weight_decay": 0.01}
    optimizer = Muon(vae, **rate, is_matrix=is_convolution)
    named = dict(vae.named_parameters())
    stepped = {name for name, weight in named.items() if any(weight is matrix for matrix in optimizer.matrices)}
    convolutions = {f"{n}.weight" for n, m in vae.named_modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))}
    assert stepped == convolutions - {"vae.decoder.conv_out.weight"}
    chosen = ("vae.encoder.conv_in.weight", "vae.encoder.mid_block.attentions.0.to_qkv.weight")
    flat = {name: nn.Parameter(named[name].detach().flatten(1).clone()) for name in chosen}
    reference = torch.optim.Muon(flat.values(), lr=1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    before = {name: weight.detach().clone() for name, weight in flat.items()}
    for seed in range(3):
        give_gradients(vae, seed)
        for name, weight in flat.items():
            gradient = named[name].grad
            assert gradient is not None
            weight.grad = gradient.flatten(1).clone()
        optimizer.step()
        reference.step()
    for name, weight in flat.items():
        moved = (weight - before[name]).abs().max()
        assert (named[name].flatten(1) - weight).abs().max() < 0.02 * moved, name


def test_its_own_state_goes_back_into_it():
    """As an autoencoder's training keeps it."""
    model, again = make_model(), make_model()
    optimizer = make_optimizer(model, CONFIG.train, "muon")
    give_gradients(model, seed=0)
    take_step(model, optimizer, 1e-3)
    again.load_state_dict(model.state_dict())
    resumed = make_optimizer(again, CONFIG.train, "muon")
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, of in ((model, optimizer), (again, resumed)):
        give_gradients(each, seed=1)
        take_step(each, of, 5e-4)
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_one_learning_rate_serves_both():
    sizes = {}
    for rate in (1e-3, 2e-3):
        model = make_model()
        before = {n: w.detach().clone() for n, w in model.named_parameters()}
        optimizer = make_optimizer(model, replace(CONFIG.train, weight_decay=0.0), "muon")
        give_gradients(model, seed=1)
        take_step(model, optimizer, rate)
        sizes[rate] = {n: (w.detach() - before[n]).square().mean().sqrt() for n, w in model.named_parameters()}
    for name, size in sizes[1e-3].items():
        torch.testing.assert_close(sizes[2e-3][name], 2 * size, rtol=2e-2, atol=1e-6)


def test_it_goes_on_where_it_was():
    model, again = make_model(), make_model()
    optimizer = make_optimizer(model, CONFIG.train, "muon")
    for seed in range(3):
        give_gradients(model, seed)
        take_step(model, optimizer, 1e-3)
    saved = {name: value.clone() for name, value in moments(model, optimizer).items()}
    assert saved["first.blocks.0.ffn.0.weight"].any()
    assert not saved["second.blocks.0.ffn.0.weight"].any()
    again.load_state_dict(model.state_dict())
    resumed = make_optimizer(again, CONFIG.train, "muon")
    set_moments(again, resumed, saved, 3)
    for each, of in ((model, optimizer), (again, resumed)):
        give_gradients(each, seed=3)
        take_step(each, of, 1e-3)
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_shards_are_refused():
    with pytest.raises(ValueError, match="shards=2: Muon needs whole matrices"):
        Setup(optimizer="muon", shards=2)
