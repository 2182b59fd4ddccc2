"""Words -> vectors: transformers' ``UMT5EncoderModel`` at every size.

In: instructions. Out: ``B P Dt``, all ``P`` positions, pads included: the transformer was trained to attend to them.
The tiny encoder reads bytes (ByT5's tokenizer, no files); UMT5-XXL reads SentencePiece pieces.
"""

import html
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import ftfy
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from xwam.config import TextConfig
from xwam.files import whole_file, write_text
from xwam.model.shards import weight_files
from xwam.strict_json import load, to_json

TOKENIZER_FOLDER = "tokenizer"


def clean_text(text: str) -> str:
    """Repair broken Unicode, undo HTML escapes (also doubled ones), make every run of white space one space."""
    unescaped = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", unescaped).strip()


class TextEncoder(nn.Module):
    """Thin over ``UMT5EncoderModel``. ``tokenizer`` is needed for SentencePiece only (its files are not ours)."""

    def __init__(self, config: TextConfig, text_length: int, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        super().__init__()
        if config.tokenizer == "sentencepiece" and tokenizer is None:
            raise ValueError(
                "tokenizer=None: a SentencePiece encoder needs its tokenizer files; "
                "pass tokenizer=transformers.AutoTokenizer.from_pretrained(folder)."
            )
        self.config = config
        self.text_length = text_length
        self.tokenizer = ByT5Tokenizer() if tokenizer is None else tokenizer
        self.model = UMT5EncoderModel(_umt5_config(config))

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B P Dt"]:
        """One row of vectors per text; longer texts are cut at ``text_length`` tokens. ``""`` is the empty prompt."""
        ids, mask = self.tokenize(texts)
        device = self.model.shared.weight.device
        return self(ids.to(device), mask.to(device))

    def encode_prompt(self, text: str) -> Float[Tensor, "P Dt"]:
        """The vectors of one text that a robot is told, with a warning where some of it is lost."""
        if len(self.tokenizer(clean_text(text), add_special_tokens=True).input_ids) > self.text_length:
            shown, most = text[:80], self.text_length
            warnings.warn(f"text={shown!r} is cut at {most} tokens: what follows is lost.", stacklevel=2)
        return self.encode([text])[0]

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B P"]]:
        """Cleaned texts as token numbers padded to ``text_length``, and 1 where a token is real."""
        tokens = self.tokenizer(
            [clean_text(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.text_length,
            add_special_tokens=True,
            return_tensors="pt",
        )
        return tokens.input_ids, tokens.attention_mask

    def forward(self, ids: Int[Tensor, "B P"], mask: Int[Tensor, "B P"]) -> Float[Tensor, "B P Dt"]:
        """Vectors at every position. Pads are not attended to, yet get vectors of their own."""
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    def save(self, folder: Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the tokenizer; each file appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.config.tokenizer == "sentencepiece":
            self.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.model.state_dict().items()
            if name != _TIED_NAME
        }
        with whole_file(folder / "model.safetensors") as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        write_text(folder / "config.json", to_json(self.config))

    @classmethod
    def load(cls, folder: Path, text_length: int) -> "TextEncoder":
        """Read what save wrote, in evaluation mode."""
        config = load(TextConfig, folder / "config.json")
        weights: dict[str, Tensor] = {}
        for path in weight_files(folder / "model.safetensors"):
            weights |= load_file(path)
        tokenizer = None
        if config.tokenizer == "sentencepiece":
            tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER, local_files_only=True)
        return cls.from_weights(config, text_length, weights, tokenizer)

    @classmethod
    def from_weights(
        cls,
        config: TextConfig,
        text_length: int,
        weights: Mapping[str, Tensor],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "TextEncoder":
        """Build around given tensors (names of ``UMT5EncoderModel``), in evaluation mode."""
        with torch.device("meta"):
            encoder = cls(config, text_length, tokenizer)
        named = {**weights, _TIED_NAME: weights["shared.weight"]}
        encoder.model.load_state_dict(named, strict=True, assign=True)
        encoder.model.tie_weights()
        return encoder.eval()


_TIED_NAME = "encoder.embed_tokens.weight"  # the same tensor as shared.weight

_INSIDE_BLOCK = {
    "norm1.": "layer.0.layer_norm.",
    "attn.": "layer.0.SelfAttention.",
    "pos_embedding.embedding.": "layer.0.SelfAttention.relative_attention_bias.",
    "norm2.": "layer.1.layer_norm.",
    "ffn.gate.0.": "layer.1.DenseReluDense.wi_0.",
    "ffn.fc1.": "layer.1.DenseReluDense.wi_1.",
    "ffn.fc2.": "layer.1.DenseReluDense.wo.",
}


def transformers_name(official: str) -> str:
    """The name that transformers gives to a tensor of Wan's own UMT5 checkpoint."""
    outside = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
    if official in outside:
        return outside[official]
    _, block, rest = (*official.split(".", 2), "", "")[:3]
    for old, new in _INSIDE_BLOCK.items():
        if rest.startswith(old):
            return f"encoder.block.{block}.{new}{rest.removeprefix(old)}"
    raise ValueError(f"name={official!r}: no tensor of Wan's UMT5 encoder has this name.")


def _umt5_config(config: TextConfig) -> UMT5Config:
    settings = UMT5Config(
        vocab_size=config.vocab_size,
        d_model=config.width,
        d_kv=config.head_width,
        d_ff=config.ffn_width,
        num_layers=config.num_blocks,
        num_heads=config.num_heads,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        dropout_rate=0.0,
    )
    # The fused attention kernels differ from the release at padded positions, which we attend to.
    settings._attn_implementation = "eager"
    return settings
