"""The depth branch: copies of the last blocks that read the main branch and never write to it.

Both branches start from the same video tokens. At each layer the main block runs first; its copy then attends, with
queries of its own, to ``[its own keys and values, the main block's keys and values of this layer]``. So video, action
and state are the same bits with and without depth.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from xwam.model.layers import Block, KeysValues
from xwam.model.rope import Rotation


def run_last_blocks(
    blocks: Sequence[Block],
    copies: Sequence[Block],
    x: Float[Tensor, "B L D"],
    num_video_tokens: int,
    time: Float[Tensor, "B 3 6 D"],
    levels: Int[Tensor, "rows L"],
    rotation: Rotation,
    prompt: Sequence[KeysValues],
    prompt_of_copies: Sequence[KeysValues],
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B video D"]]:
    """The main stream after ``blocks``, and the depth stream (video tokens only) after their ``copies``."""
    depth = x[:, :num_video_tokens]
    depth_levels, depth_rotation = levels[:, :num_video_tokens], rotation.first(num_video_tokens)
    for block, copy, text, text_of_copy in zip(blocks, copies, prompt, prompt_of_copies, strict=True):
        x, keys_values = block(x, time, levels, rotation, text)
        depth, _ = copy(depth, time, depth_levels, depth_rotation, text_of_copy, keys_values)
    return x, depth
