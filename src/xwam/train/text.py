"""Training of the small text encoder: wordings of one task come together, tasks move apart. A minute or less.

In: ``task -> wordings``. Out: a folder ``text/`` that ``TextEncoder.load`` reads. The loss is the supervised
contrastive one (arXiv 2004.11362): with ``z`` the unit vectors of a batch, every text should find the others of its
task among all others::

    loss_i = - mean over its task of log( e(i, j) / sum over k != i of e(i, k) ),   e(i, j) = exp(z_i z_j / tau)

``z`` is the mean over all positions, pads included, because the transformer attends to all of them. Every text comes
in a second, sloppier writing, so a task with one wording has a partner too. The empty prompt is a task of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from xwam.config import Config, TextConfig
from xwam.model.text import TextEncoder, clean_text

ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    """How the text encoder is trained."""

    num_steps: int
    batch_size: int  # texts per step, each in two writings
    learning_rate: float
    num_warmup_steps: int
    temperature: float  # tau
    seed: int


TINY_TEXT = TextTraining(num_steps=400, batch_size=48, learning_rate=2e-3, num_warmup_steps=20, temperature=0.1, seed=0)


class Text(NamedTuple):
    """One wording and the number of its task."""

    words: str
    task: int


def train_text(
    config: TextConfig, text_length: int, wordings: Mapping[str, Sequence[str]], training: TextTraining, out: Path
) -> Path:
    """Train on ``wordings`` (by task) and return ``out/text``. Raises ValueError where two tasks share a wording."""
    texts = list_texts(wordings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)  # the library draws its first weights from the global source
        encoder = TextEncoder(config, text_length)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=training.learning_rate, weight_decay=0.01)
    bar = tqdm(range(training.num_steps), desc="text", unit="step")
    for now in bar:
        rng = np.random.default_rng((training.seed, now))
        chosen = [texts[i] for i in rng.choice(len(texts), min(training.batch_size, len(texts)), replace=False)]
        words = [text.words for text in chosen] + [rewrite(text.words, rng) for text in chosen]
        tasks = torch.tensor([text.task for text in chosen] * 2)
        loss = contrastive_loss(pool(encoder.encode(words)), tasks, training.temperature)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate_at(now, training)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bar.set_postfix_str(f"loss={loss.item():.3f}")
    encoder.eval().save(out / "text")
    return out / "text"


def list_texts(wordings: Mapping[str, Sequence[str]]) -> list[Text]:
    """All wordings with their task's number; 0 is the empty prompt."""
    texts, owner = [Text("", 0)], {"": "the empty prompt"}
    for number, (task, lines) in enumerate(wordings.items(), start=1):
        for words in lines:
            if words in owner:
                raise ValueError(
                    f"wording={words!r} stands for {owner[words]!r} and for {task!r}: "
                    "a robot could not know which is meant; word one of them differently."
                )
            owner[words] = task
            texts.append(Text(words, number))
    return texts


def check_told_apart(wordings: Mapping[str, Sequence[str]], config: Config) -> None:
    """Raise ValueError where two tasks are told in words that are the same when cut at ``text_length`` bytes."""
    seen: dict[bytes, tuple[str, str]] = {}
    for task, lines in wordings.items():
        for words in lines:
            read = clean_text(words).encode()[: config.model.text_length - 1]  # the last one says that the text ends
            other, known = seen.setdefault(read, (task, words))
            if other != task and known != words:
                raise ValueError(
                    f"instructions {known!r} and {words!r} are the same in their first {len(read)} bytes, and this "
                    "model reads no more: word them so that they differ earlier."
                )


def rewrite(words: str, rng: np.random.Generator) -> str:
    """The same text as another person might type it: articles missing, a capital, a full stop, one letter wrong."""
    parts = words.split(" ")
    if rng.random() < 0.3:
        parts = [part for part in parts if part not in ARTICLES] or parts
    text = " ".join(parts)
    if text and rng.random() < 0.3:
        place = int(rng.integers(len(text)))
        text = text[:place] + text[place + 1 :]
    if rng.random() < 0.3:
        text = text[:1].upper() + text[1:]
    return text + "." if text and rng.random() < 0.3 else text


def pool(encoded: Float[Tensor, "B P Dt"]) -> Float[Tensor, "B Dt"]:
    """One unit vector per text: the mean over all positions."""
    return torch.nn.functional.normalize(encoded.mean(dim=1), dim=-1)


def contrastive_loss(vectors: Float[Tensor, "B Dt"], tasks: Int[Tensor, " B"], temperature: float) -> Float[Tensor, ""]:
    """The supervised contrastive loss. Every task must have two rows or more."""
    is_self = torch.eye(len(tasks), dtype=torch.bool, device=tasks.device)
    is_partner = (tasks[:, None] == tasks) & ~is_self
    alike = (vectors @ vectors.T / temperature).masked_fill(is_self, -math.inf)
    log_share = alike.log_softmax(dim=-1).masked_fill(~is_partner, 0.0)
    return -(log_share.sum(dim=-1) / is_partner.sum(dim=-1)).mean()


def _learning_rate_at(now: int, training: TextTraining) -> float:
    """Warm up in a straight line, then half a cosine to a fiftieth."""
    warm = min(1.0, (now + 1) / training.num_warmup_steps)
    return training.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * now / training.num_steps)))
