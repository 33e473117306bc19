"""Which weights are learned by which optimiser."""

import torch
from torch import Tensor

from undye.denoiser import Denoiser
from undye.training.muon import Muon
from undye.training.run import TrainingConfig


def make_optimizers(
    denoiser: Denoiser, config: TrainingConfig, muon_dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Adam for all weights; or Muon for the convolutions that do not face the image, and Adam for what is left."""
    network = denoiser.network
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    names = getattr(network, "edge_layers", None)
    # a user's network may not say which layers face the image: the first and the last convolution, most likely
    edge_layers = [getattr(network, n) for n in names] if names is not None else [*convolutions[:1], *convolutions[-1:]]
    edges = {id(p) for layer in edge_layers for p in layer.parameters()}
    rest: list[Tensor] = []
    inner: list[Tensor] = []
    for p in denoiser.parameters():
        if p.requires_grad:
            (inner if config.optimizer == "muon" and p.ndim == 4 and id(p) not in edges else rest).append(p)
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        fused = rest[0].device.type != "mps"
        optimizers.append(torch.optim.Adam(rest, lr=config.lr, betas=(0.9, config.beta2), eps=1e-8, fused=fused))
    if inner:
        optimizers.append(Muon(inner, lr=config.lr, dtype=muon_dtype))
    return optimizers
