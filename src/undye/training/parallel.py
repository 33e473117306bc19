"""One model on many devices: replicated (DDP), or each keeping a part of the weights (FSDP2).

With fsdp the weights, the averages and the optimisers' moments are spread over the processes, as DTensors; a tensor is
put together with `whole`, and laid out like another with `put`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from undye.denoiser import Denoiser
from undye.objective import Draw, Objective
from undye.world import World


class Losses(nn.Module):
    """The objective as a module, so that a wrapper sees the whole forward pass."""

    def __init__(self, denoiser: Denoiser, objective: Objective):
        super().__init__()
        self.denoiser, self.objective = denoiser, objective

    def forward(self, x_0: Tensor, draw: Draw, label: Tensor | None) -> Tensor:
        """The loss of each example."""
        return self.objective.loss(self.denoiser, x_0, draw, label)


def replicate(losses: Losses, world: World) -> nn.Module:
    """DDP around it where there are several processes: gradients come out averaged over them."""
    if world.size == 1:
        return losses
    ids = [world.device.index or 0] if world.device.type == "cuda" else None
    return DistributedDataParallel(losses, device_ids=ids, gradient_as_bucket_view=True)


def shard(denoiser: Denoiser, world: World) -> None:
    """Spread a model's weights over the processes, in place; each block is put together when it computes."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for parameter in denoiser.parameters():  # no other layout can be spread
        parameter.data = parameter.data.contiguous()
    for child in denoiser.network.children():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, mesh=mesh)
    fully_shard(denoiser.network, mesh=mesh)


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parts of tensors that this process holds."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over the processes, put together in each of them."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, laid out as `like` is: in memory, and over the processes."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)
    return torch.empty_like(like).copy_(value)
