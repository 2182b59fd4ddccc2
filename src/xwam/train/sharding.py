"""One copy of the weights, gradients and optimiser, spread over several processes (FSDP2); nothing in the model.

With fewer shards than processes there are several copies (HSDP): neighbours share one, copies add their gradients up.
Every block is gathered when it is needed and let go afterwards. What a block reads of the prompt is computed before the
blocks run, so those few weights are a group of their own: otherwise every block would be gathered twice.
"""

import torch
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from xwam.model.xwam import XWAM, all_blocks
from xwam.train.peers import LONGEST_WAIT, Peers


def num_shards(shards: int, peers: Peers) -> int:
    """How many processes share one copy; 1: every process has its own."""
    return shards or peers.num_ranks


def shard(model: XWAM, peers: Peers, shards: int, device: torch.device, *, in_bfloat16: bool) -> None:
    """Spread the weights, in place, before they are filled; their names stay.

    In bf16 the float32 weights are rounded as they are gathered, and gradients are added up in float32.
    """
    param, reduced = (torch.bfloat16, torch.float32) if in_bfloat16 else (None, None)
    as_it_comes = MixedPrecisionPolicy(param_dtype=param, reduce_dtype=reduced, cast_forward_inputs=False)
    cast = MixedPrecisionPolicy(param_dtype=param, reduce_dtype=reduced)  # gathered after the layer looked at its dtype
    mesh = _mesh(peers, shards, device)
    for block in all_blocks(model):
        of_prompt = [block.cross_attn.k, block.cross_attn.v, block.cross_attn.norm_k]
        fully_shard(of_prompt, mesh=mesh, mp_policy=cast, reshard_after_forward=True)
        fully_shard(block, mesh=mesh, mp_policy=as_it_comes, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, mp_policy=as_it_comes, reshard_after_forward=False)
    register_fsdp_forward_method(model, "prompt_keys_values")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # our losses are shares: their gradients are added up, not averaged
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def is_sharded(model: nn.Module) -> bool:
    """True when this process holds a part of the model only."""
    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process. Sharded ones must be asked for by all processes at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded: every process keeps its piece, nothing is sent."""
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def _mesh(peers: Peers, shards: int, device: torch.device) -> DeviceMesh:
    if shards == peers.num_ranks:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=("shard",))
    copies = peers.num_ranks // shards
    mesh = init_device_mesh(device.type, (copies, shards), mesh_dim_names=("copy", "shard"))
    for name in ("copy", "shard"):  # groups of a mesh wait for half an hour at most, unless told so
        distributed_c10d._set_pg_timeout(LONGEST_WAIT, mesh.get_group(name))
    return mesh
