"""The training loop's one step, and all the state that it changes."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from undye import keyed
from undye.denoiser import Denoiser, channels_last
from undye.errors import UserError
from undye.keyed import Stream
from undye.objective import Draw, Objective
from undye.training.batches import Batch
from undye.training.ema import EMA, PowerEMA
from undye.training.events import StepDone
from undye.training.optimizers import make_optimizers
from undye.training.parallel import Losses, put, replicate, shard, whole
from undye.training.precision import Precision
from undye.training.run import TrainingConfig
from undye.world import World

SKIPS_IN_A_ROW = 100
"""Steps without finite numbers, one after another, after which a run that skips them stops all the same."""


class NonFiniteError(UserError):
    """The loss or its gradient is no number.

    Attributes:
        step: the step that was not taken (the first is 1).
        t: (B,) the timesteps of the batch; losses: (B,) theirs.
    """

    def __init__(self, step: int, what: str, t: Tensor, losses: Tensor):
        super().__init__(f"the {what} is not finite at step {step}")
        self.step, self.t, self.losses = step, t, losses


@dataclass
class Trainer:
    """An optimiser on an objective, with learning-rate warm-up and decay, gradient clipping and an EMA.

    It knows an iterator of batches and an objective; it builds no data set, writes no file and prints nothing. With
    several processes each is given its part of every batch (`World.share`), and all take the same steps.

    Attributes:
        denoiser: the model that is trained.
        objective: its loss.
        config: how.
        seed: names all random numbers.
        world: the processes.
        precision: fp64, fp32, bf16 or fp16.
        flag: asked before each step; the largest answer of all processes is in the event (a signal to stop).
        step: optimiser steps done so far.
        total_steps: where the learning rate's decay ends; may be set later than the warm-up (a time budget does).
    """

    denoiser: Denoiser
    objective: Objective
    config: TrainingConfig
    seed: int
    world: World
    precision_name: str = "fp32"
    flag: Callable[[], int] = int

    def __post_init__(self) -> None:
        """Lay the model out for this device and these processes."""
        self.precision = Precision(self.precision_name, self.world.device)
        # convolutions on this layout are what CPUs and tensor cores are fast at; the numbers are the same
        self.denoiser = channels_last(self.denoiser).to(self.world.device, self.precision.weights).train()
        self.ema = EMA(self.denoiser, self.config.ema_decay)
        self.spread = self.config.parallel == "fsdp" and self.world.size > 1
        if self.spread:
            shard(self.denoiser, self.world)
            shard(self.ema.model, self.world)
        stds = self.config.ema_stds
        self.power_ema = PowerEMA(self.denoiser.network, stds) if stds else None
        losses = Losses(self.denoiser, self.objective)
        self._losses: nn.Module = losses if self.spread else replicate(losses, self.world)
        if self.config.compile:
            self.denoiser.network.compile()
        self.parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        low = self.precision.lowest
        muon = {torch.float16: torch.float32}.get(low, low)  # fp16 has too few exponents for it
        self.optimizers = make_optimizers(self.denoiser, self.config, muon)
        self.step = self.skipped = self.skips_in_a_row = 0
        self.total_steps: int | None = self.config.steps

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
        """Take a step per batch, from batch number `self.step` on, until `total_steps` are done.

        Raises:
            NonFiniteError: where there is no finite gradient, before the weights are changed.
            UserError: if another process is gone.
        """
        for batch in batches:
            yield self._take(batch)
            if self.total_steps is not None and self.step >= self.total_steps:
                return

    def _take(self, batch: Batch) -> StepDone:
        lr = self.learning_rate(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        t, losses, weight, flag = self._gather(*self._backward(batch), self.flag())
        loss = float((losses * weight).mean())
        norm = self._clip()
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for optimizer in self.optimizers:
                self.precision.scaler.step(optimizer)
            self.objective.timesteps.observe(t, losses)
            self.skips_in_a_row = 0
        else:
            self._skip("loss" if not math.isfinite(loss) else "gradient", t, losses)
        self.precision.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.step += 1
        if finite:
            self.ema.update(self.denoiser, self.step)
        if self.power_ema is not None:
            self.power_ema.update(self.denoiser.network, self.step)
        return StepDone(self.step, loss, lr, norm, len(t), t, losses, skipped=not finite, flag=flag)

    def _skip(self, what: str, t: Tensor, losses: Tensor) -> None:
        """Count a step that cannot be taken, or stop.

        Raises:
            NonFiniteError: unless the run is to go on.
        """
        # with fp16 a gradient that overflows is how the scaler finds its factor
        expected = self.precision.scaler.is_enabled() and what == "gradient"
        self.skips_in_a_row += 1
        if (self.config.non_finite == "stop" and not expected) or self.skips_in_a_row >= SKIPS_IN_A_ROW:
            raise NonFiniteError(self.step + 1, what, t, losses)
        self.skipped += 1

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of this process's examples, in parts of the batch; (t, losses, weight) of each example."""
        count, parts = len(batch.examples), self.config.accumulate
        size = count // parts
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for k in range(parts):
            part = slice(k * size, (k + 1) * size)
            examples = batch.examples[part]
            draw = self.draw(batch.x_0.shape[1:], examples)
            x_0 = batch.x_0[part].to(self.world.device, non_blocking=True)
            x_0 = x_0.to(self.precision.weights, memory_format=torch.channels_last)
            label = None if batch.label is None else batch.label[part].to(self.world.device)
            torch.manual_seed(dropout_seed(self.seed, self.step, int(examples[0])))
            with self._between(last=k == parts - 1):
                with self.precision.autocast():
                    losses = self._losses(x_0, draw, label)
                # the mean over the process's examples; the wrapper takes the mean over the processes
                loss = (losses * draw.weight.to(losses)).sum() / count
                self.precision.scaler.scale(loss).backward()
            kept.append((draw.t, losses.detach(), draw.weight))
        return tuple(torch.cat([k[i].double().cpu() for k in kept]) for i in range(3))  # pyrefly: ignore

    def draw(self, shape: tuple[int, ...], examples: np.ndarray) -> Draw:
        """The noise and timesteps of the next step for these examples of its batch."""
        steps = self.denoiser.schedule.num_steps
        return self.objective.draw(shape, steps, self.seed, self.step, examples, self.config.batch_size)

    def _between(self, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between the processes once in a step, with its last part."""
        if self.spread:
            self.denoiser.network.set_requires_gradient_sync(last)  # pyrefly: ignore
            return nullcontext()
        return nullcontext() if last or self.world.size == 1 else self._losses.no_sync()  # pyrefly: ignore

    def _gather(self, t: Tensor, losses: Tensor, weight: Tensor, flag: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """What all processes have of these, in the order of the examples; one exchange."""
        here = torch.stack([t, losses, weight, torch.full_like(t, flag)])
        all_of_them = self.world.gather(here)
        t, losses, weight, flags = all_of_them.transpose(0, 1).flatten(1)
        return t.long(), losses, weight, int(flags.max())

    def _clip(self) -> float:
        """The norm of the whole gradient, which is then scaled down to `grad_clip` if it is larger."""
        for optimizer in self.optimizers:
            self.precision.scaler.unscale_(optimizer)
        limit = self.config.grad_clip or float("inf")
        return float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, limit)))

    def state_tensors(self) -> dict[str, Tensor]:
        """What going on needs beside the EMA weights: raw weights, the optimisers' moments, the fp16 scale.

        The same for any number of processes; all of them have to ask.
        """
        state = {f"weights.{k}": whole(v) for k, v in self.denoiser.state_dict().items()}
        for name, parameter in self.denoiser.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    state[f"optimizer.{key}.{name}"] = whole(value)
        state.update({f"timesteps.{k}": v for k, v in self.objective.timesteps.state().items()})
        state.update({f"scaler.{k}": v for k, v in self.precision.state().items()})
        if self.power_ema is not None:
            state.update({f"power_ema.{k}": v for k, v in self.power_ema.state().items()})
        return state

    def ema_weights(self) -> dict[str, Tensor]:
        """The averaged weights of the network; all processes have to ask."""
        return {k: whole(v) for k, v in self.ema.model.network.state_dict().items()}

    def load_state(self, step: int, state: dict[str, Tensor], ema_weights: dict[str, Tensor]) -> None:
        """Continue after `step`, from what `state_tensors` and `ema_weights` gave."""
        self.step = step
        self._load(self.ema.model.network, ema_weights)
        self._load(self.denoiser, _part(state, "weights."))
        parameters = dict(self.denoiser.named_parameters())
        owners = {p: o for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for full_name, value in _part(state, "optimizer.").items():
            key, name = full_name.split(".", 1)
            if name not in parameters:
                raise UserError(f"the training state has {name!r}, which the model has not: the checkpoint is damaged")
            weight = parameters[name]
            # moments lie as the weights do; a file does not keep the layout
            own = put(value, weight.detach()) if value.shape == weight.shape else value.to(weight.device)
            owners[weight].state[weight][key] = own
        remembered = _part(state, "timesteps.")
        if set(remembered) != set(self.objective.timesteps.state()):
            raise UserError("the training state has no history of losses for importance: the checkpoint is damaged")
        self.objective.timesteps.load_state(remembered)
        self.precision.load_state(_part(state, "scaler."))
        if self.power_ema is not None:
            self.power_ema.load_state(_part(state, "power_ema."))

    def _load(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        if not self.spread:
            module.load_state_dict(weights)
            return
        for name, tensor in module.state_dict().items():
            with torch.no_grad():
                tensor.copy_(put(weights[name], tensor))


def dropout_seed(seed: int, step: int, example: int) -> int:
    """What torch's own generator, which dropout draws from, is set to before the examples from `example` on."""
    return int(keyed.generator(seed, Stream.TRAIN_DROPOUT, step, example).integers(2**63))


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
