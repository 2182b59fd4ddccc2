"""Prompts through the text encoder, once: at the published size one takes seconds, on a GPU a part of one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from xwam.files import fingerprint, whole_file
from xwam.model.text import TextEncoder

SECONDS_AT_RISK = 300  # of work that a killed process may lose: all that is known is written anew every time


@torch.no_grad()
def encoded_prompts(
    words: Sequence[str], frozen: Path, path: Path, text_length: int, device: str = "cpu"
) -> Mapping[str, Float[Tensor, "P Dt"]]:
    """Vectors of these prompts, on the CPU; kept in the file ``path``, which knows which encoder made them.

    The encoder is only loaded, onto ``device``, for those that are not in the file yet.
    """
    files = [p for p in (frozen / "text").rglob("*") if p.is_file()]
    maker = {"text": fingerprint(frozen / "text", files, text_length)}
    known = _stored(path, maker)
    if missing := [text for text in words if text not in known]:
        encoder = TextEncoder.load(frozen / "text", text_length).to(device)
        saved = time.perf_counter()
        for text in tqdm(missing, desc="prompts", unit="prompt"):
            known[text] = encoder.encode_prompt(text).cpu().contiguous()
            if text == missing[-1] or time.perf_counter() - saved > SECONDS_AT_RISK:
                with whole_file(path) as temporary:
                    save_file(known, temporary, metadata=maker)
                saved = time.perf_counter()
    return {text: known[text] for text in words}


def _stored(path: Path, maker: dict[str, str]) -> dict[str, Tensor]:
    """What the file holds, if this encoder made it."""
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        if file.metadata() != maker:
            return {}
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
