"""The training loop's one step, and all the state that it changes."""

import math
from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from undye.denoiser import Denoiser, channels_last
from undye.errors import UserError
from undye.objective import Objective
from undye.training.batches import Batch
from undye.training.ema import EMA
from undye.training.events import StepDone
from undye.training.muon import Muon
from undye.training.run import TrainingConfig


class Trainer:
    """An optimiser on an objective, with learning-rate warm-up and decay, gradient clipping and an EMA.

    It knows an iterator of batches and an objective; it builds no data set, writes no file and prints nothing.

    Attributes:
        step: optimiser steps done so far.
        total_steps: where the learning rate's decay ends; may be set later than the warm-up (a time budget does).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective,
        config: TrainingConfig,
        seed: int,
        accelerator: Accelerator,
        bf16: bool = False,
    ):
        # convolutions on this layout are what CPUs and tensor cores are fast at; the numbers are the same
        self.denoiser = channels_last(denoiser).to(accelerator.device).train()
        self.ema = EMA(self.denoiser, config.ema_decay)
        self.objective, self.config, self.seed, self.accelerator = objective, config, seed, accelerator
        # not accelerate's mixed precision: that is one setting for the whole process, and a process may train twice
        self.bf16 = bf16
        self.parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        self.optimizers = make_optimizers(self.denoiser, config, bf16)
        self.step = 0
        self.total_steps: int | None = config.steps

    def learning_rate(self, step: int) -> float:
        """The rate of step number `step` (the first is 0): linear warm-up, then the decay over what remains.

        It does not depend on the number of steps until the warm-up is over, so that a time budget can use the warm-up
        to find that number.
        """
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / config.warmup
        if config.decay == "none" or self.total_steps is None:
            return config.lr
        left = (self.total_steps - step) / max(1, self.total_steps - config.warmup)
        left = min(1.0, max(0.0, left))
        return config.lr * (left if config.decay == "linear" else 0.5 - 0.5 * math.cos(left * math.pi))

    def steps(self, batches: Iterable[Batch]) -> Iterator[StepDone]:
        """Take a step per batch, from batch number `self.step` on, until `total_steps` are done."""
        device = self.accelerator.device
        for batch in batches:
            lr = self.learning_rate(self.step)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
            x_0 = batch.x_0.to(device, memory_format=torch.channels_last)
            label = None if batch.label is None else batch.label.to(device)
            draw = self.objective.draw(
                x_0.shape[1:],
                self.denoiser.schedule.num_steps,
                self.seed,
                self.step,
                batch.examples,
                self.config.batch_size,
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                losses = self.objective.loss(self.denoiser, x_0, draw, label)
            loss = (losses * draw.weight.to(losses)).mean()
            self.accelerator.backward(loss)
            self.objective.timesteps.observe(draw.t, losses)
            norm = self._clip()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.step += 1
            self.ema.update(self.denoiser, self.step)
            yield StepDone(self.step, loss.item(), lr, float(norm), len(x_0))
            if self.total_steps is not None and self.step >= self.total_steps:
                return

    def _clip(self) -> Tensor:
        """The norm of the whole gradient, which is then scaled down to `grad_clip` if it is larger."""
        limit = self.config.grad_clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.parameters, limit)

    def state_tensors(self) -> dict[str, Tensor]:
        """What going on needs beside the EMA weights: raw weights, the optimisers' moments, the random state."""
        state = {f"weights.{k}": v for k, v in self.denoiser.state_dict().items()}
        for name, parameter in self.denoiser.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    state[f"optimizer.{key}.{name}"] = value
        state.update({f"timesteps.{k}": v for k, v in self.objective.timesteps.state().items()})
        # dropout draws from torch's own generator; all other noise is keyed by the step
        state["random.cpu"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            state["random.cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state(self, step: int, state: dict[str, Tensor], ema_weights: dict[str, Tensor]) -> None:
        """Continue after `step`, from what `state_tensors` gave and the EMA's weights."""
        self.step = step
        self.ema.model.network.load_state_dict(ema_weights)
        self.denoiser.load_state_dict(
            {k.removeprefix("weights."): v for k, v in state.items() if k.startswith("weights.")}
        )
        parameters = dict(self.denoiser.named_parameters())
        owners = {p: o for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for full_name, value in state.items():
            if full_name.startswith("optimizer."):
                _, key, name = full_name.split(".", 2)
                if name not in parameters:
                    raise UserError(
                        f"the training state has {name!r}, which the model has not: the checkpoint is damaged"
                    )
                weight = parameters[name]
                # moments lie as the weights do; a file does not keep the layout
                like_weight = value.shape == weight.shape
                own = torch.empty_like(weight).copy_(value) if like_weight else value.to(weight.device)
                owners[weight].state[weight][key] = own
        remembered = {k.removeprefix("timesteps."): v for k, v in state.items() if k.startswith("timesteps.")}
        if set(remembered) != set(self.objective.timesteps.state()):
            raise UserError("the training state has no history of losses for importance: the checkpoint is damaged")
        self.objective.timesteps.load_state(remembered)
        torch.set_rng_state(state["random.cpu"])
        if "random.cuda" in state and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state["random.cuda"])


def make_optimizers(denoiser: Denoiser, config: TrainingConfig, bf16: bool) -> list[torch.optim.Optimizer]:
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
        optimizers.append(Muon(inner, lr=config.lr, dtype=torch.bfloat16 if bf16 else torch.float32))
    return optimizers
