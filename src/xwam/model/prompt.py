"""What the transformer reads of a prompt: per-block keys and values, short where the padding repeats itself.

UMT5 sees distances through buckets, the last of which holds everything from 91 positions on. Pads are attended to by
nobody, so a pad that far from the last word gets the same vector as every later one, bit for bit. Keys and values of
equal vectors are equal, and ``n`` equal keys are one key whose weight counts ``n`` times: ``softmax`` sees that as
``log n`` added to its logit. So the tail becomes one row with a bias; the answer is the same.

Prompts come in two lengths only, ``SHORT`` and the full one, so that compiled programs see two shapes and no more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from xwam.files import whole_file
from xwam.model.layers import KeysValues

T = TypeVar("T")
MAX_REMEMBERED = 8  # prompts; of the largest model, a merged one takes about 100 MB in bf16
MAX_ENCODED = 256  # instructions, beside the stored ones; of the largest model, one takes 8 MB
SHORT = 192  # rows of a prompt of up to 100 pieces, its padding merged


class PromptKeysValues(NamedTuple):
    """What the prompt offers to every block and every depth block."""

    blocks: tuple[KeysValues, ...]
    depth_blocks: tuple[KeysValues, ...]


def merge_padding(
    context: Float[Tensor, "P Dt"], length: int = SHORT
) -> tuple[Float[Tensor, "short Dt"], Float[Tensor, " short"] | None]:
    """An encoded prompt cut to ``length`` rows, and the bias that makes up for it.

    Only rows that equal the last one are cut; a prompt with too few of them comes back whole, without a bias.
    """
    num_cut = len(context) - length
    if num_cut <= 0 or not torch.equal(context[length - 1 :], context[-1:].expand(num_cut + 1, -1)):
        return context, None
    bias = torch.zeros(length, device=context.device)
    bias[-1] = math.log(num_cut + 1)
    return context[:length], bias


@runtime_checkable
class ReadsPrompts(Protocol):
    """A transformer, as far as prompts are concerned."""

    text_embedding: Any

    def prompt_keys_values(self, context: Tensor, bias: Tensor | None = None) -> PromptKeysValues:
        """All that depends on the encoded prompt alone."""
        ...


def _latest(known: Mapping[str, T], used: Mapping[str, T], most: int) -> dict[str, T]:
    """What was used last, at most so many; ``used`` just now."""
    others = {text: kept for text, kept in known.items() if text not in used}
    return dict(list({**others, **used}.items())[-most:])


class EncodedPrompts:
    """What the text encoder made of instructions: those that came with a checkpoint, and the latest of the others."""

    def __init__(self, stored: Mapping[str, Float[Tensor, "P Dt"]], encode: Callable[[str], Tensor]) -> None:
        """``encode`` gives the vectors ``P Dt`` of one that is not known yet."""
        self._stored, self._made, self._encode = dict(stored), dict[str, Tensor](), encode

    @property
    def texts(self) -> tuple[str, ...]:
        """The instructions that are known, stored ones first."""
        return (*self._stored, *self._made)

    @torch.no_grad()
    def rows(self, texts: Sequence[str]) -> Float[Tensor, "B P Dt"]:
        """One row for each; each distinct one is encoded once and remembered for a while."""
        known = self._stored | self._made
        found = {text: known[text] if text in known else self._encode(text) for text in dict.fromkeys(texts)}
        used = {text: row for text, row in found.items() if text not in self._stored}
        self._made = _latest(self._made, used, MAX_ENCODED)
        return torch.stack([found[text] for text in texts])

    def save(self, path: Path, texts: Sequence[str]) -> None:
        """Write these, beside those that were stored."""
        kept = list(dict.fromkeys([*self._stored, *texts]))
        rows = dict(zip(kept, self.rows(kept), strict=True))
        with whole_file(path) as temporary:
            save_file({text: row.cpu().clone() for text, row in rows.items()}, temporary)
        self._stored |= rows


class PromptMemory:
    """Keys and values of the latest few instructions, for as long as the model's weights stay as they are."""

    def __init__(self) -> None:
        self._known: dict[str, PromptKeysValues] = {}
        self._weights = (0, 0)

    @torch.no_grad()
    def prepare(
        self, model: ReadsPrompts, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]
    ) -> PromptKeysValues:
        """What every block reads of these instructions; ``encode`` gives the vectors ``B P Dt`` of unknown ones."""
        weight = model.text_embedding[0].weight
        if self._weights != (id(weight), weight._version):
            self._known, self._weights = {}, (id(weight), weight._version)
        found = {text: self._known[text] for text in texts if text in self._known}
        for text in dict.fromkeys(texts):
            if text not in found:
                context, bias = merge_padding(encode([text])[0])
                found[text] = model.prompt_keys_values(context[None], None if bias is None else bias[None])
        self._known = _latest(self._known, found, MAX_REMEMBERED)
        return join([found[text] for text in texts])


def join(prompts: Sequence[PromptKeysValues]) -> PromptKeysValues:
    """One batch out of several prompts; shorter ones are filled up with rows that nobody attends to."""
    if len(prompts) == 1:
        return prompts[0]
    return PromptKeysValues(
        *(tuple(_join(rows) for rows in zip(*branches, strict=True)) for branches in zip(*prompts, strict=True))
    )


def _join(parts: Sequence[KeysValues]) -> KeysValues:
    if all(part.bias is None for part in parts):
        return KeysValues(*(torch.cat(column) for column in zip(*(part[:2] for part in parts), strict=True)))
    length = max(part.keys.shape[2] for part in parts)
    filled = []
    for keys, values, bias in parts:
        missing = length - keys.shape[2]
        bias = keys.new_zeros((len(keys), 1, 1, keys.shape[2]), dtype=torch.float32) if bias is None else bias
        rows = (functional.pad(x, (0, 0, 0, missing)) for x in (keys, values))
        filled.append((*rows, functional.pad(bias, (0, missing), value=-math.inf)))
    return KeysValues(*(torch.cat(column) for column in zip(*filled, strict=True)))
