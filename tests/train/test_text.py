"""The text encoder learns to tell tasks apart, and refuses what it cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xwam.model.text import TextEncoder
from xwam.presets import preset
from xwam.train.text import TINY_TEXT, contrastive_loss, list_texts, pool, rewrite, train_text

CONFIG = preset("debug").text
LENGTH = preset("debug").model.text_length
WORDINGS = {
    "push": ("push the ball", "shove the ball"),
    "open": ("open the door", "pull the door open"),
    "press": ("press the button",),
}


@torch.no_grad()
def share_found(encoder, wordings) -> float:
    """The share of wordings (of tasks with two or more) whose nearest other text belongs to the same task."""
    texts = list_texts(wordings)
    tasks = torch.tensor([text.task for text in texts])
    vectors = torch.cat([pool(encoder.encode([text.words])) for text in texts])
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).argmax(dim=-1)
    has_partner = (tasks[:, None] == tasks).sum(dim=-1) > 1
    return (tasks[nearest] == tasks)[has_partner].float().mean().item()


def test_tasks_are_told_apart_after_a_few_steps(tmp_path):
    folder = train_text(CONFIG, LENGTH, WORDINGS, replace(TINY_TEXT, num_steps=30), tmp_path)
    encoder = TextEncoder.load(folder, LENGTH)
    assert share_found(encoder, WORDINGS) == 1
    torch.manual_seed(0)
    assert TextEncoder(CONFIG, LENGTH).encode(["x"]).shape == encoder.encode(["x"]).shape


def test_the_same_seed_gives_the_same_encoder(tmp_path):
    training = replace(TINY_TEXT, num_steps=2)
    vectors = []
    for name in ("one", "two"):
        torch.rand(3)  # the caller's random numbers do not matter, and are not touched
        encoder = TextEncoder.load(train_text(CONFIG, LENGTH, WORDINGS, training, tmp_path / name), LENGTH)
        vectors.append(encoder.encode(["push the ball"]))
    assert torch.equal(*vectors)


def test_the_loss_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    tasks = torch.tensor([0, 0, 1, 1])
    expected = -np.log(np.e / (np.e + 2))
    assert contrastive_loss(vectors, tasks, 1.0).item() == pytest.approx(expected)
    assert contrastive_loss(vectors, tasks[[0, 2, 1, 3]], 1.0).item() > expected


def test_rewriting_keeps_the_text_recognisable():
    rng = np.random.default_rng(0)
    seen = {rewrite("press the button", rng) for _ in range(200)}
    assert {"press the button", "Press the button", "press button", "press the button."} <= seen
    assert rewrite("", rng) == ""


def test_a_wording_of_two_tasks_is_refused():
    with pytest.raises(ValueError, match=r"'push it'.*'a'.*'b'"):
        list_texts({"a": ["push it"], "b": ["push it"]})
