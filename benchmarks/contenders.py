"""The other projects' models, each trained and sampled the way its own documentation does it."""

import contextlib
import copy
import importlib
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 28
DDIM_STEPS = 50
SAMPLE_BATCH = 100


class Peer(ABC):
    """Another project's model in training.

    Attributes:
        name: of the package.
        recipe: what its documented training does, in a line.
        recipe_batch: images per step there.
        default_lr: learning rate there.
    """

    name: str
    recipe: str
    recipe_batch: int
    default_lr: float

    def __init__(self, lr: float | None = None, bf16: bool = False):
        self.lr = lr or self.default_lr
        self.bf16 = bf16
        self.steps_done = 0

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """bf16 for the network where it is asked for; both projects' trainers offer it through accelerate."""
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    @abstractmethod
    def step(self, images: Tensor, progress: float = 0.0) -> float:
        """One optimiser step on images (B, 1, 28, 28) in [0, 1]; progress: the part of the training that is over."""

    @abstractmethod
    def sample(self, n: int) -> np.ndarray:
        """Draw n images from the averaged weights by the project's own DDIM sampler, uint8 (n, 28, 28, 1)."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many weights the network has."""


class Lucidrains(Peer):
    """denoising-diffusion-pytorch: the steps of its `Trainer`, with that class's defaults, on images in memory."""

    name = "denoising-diffusion-pytorch"
    recipe = "Adam 1e-4 (0.9, 0.99), clip 1.0, EMA 0.995 every 10 steps; v-prediction, sigmoid schedule; no flips"
    recipe_batch = 32
    default_lr = 1e-4

    def __init__(self, lr: float | None = None, bf16: bool = False):
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        super().__init__(lr, bf16)
        self.model = GaussianDiffusion(
            Unet(dim=28, dim_mults=(1, 2, 4), channels=1),
            image_size=SIZE,
            timesteps=1000,
            sampling_timesteps=DDIM_STEPS,
        ).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr, betas=(0.9, 0.99))
        self.ema = EMA(self.model, beta=0.995, update_every=10)

    def step(self, images: Tensor, progress: float = 0.0) -> float:
        with self.autocast():
            loss = self.model(images)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()
        self.steps_done += 1
        return loss.item()

    @torch.inference_mode()
    def sample(self, n: int) -> np.ndarray:
        average: Any = self.ema.ema_model
        average.eval()
        return _levels(average.sample(batch_size=n).permute(0, 2, 3, 1).numpy())

    @property
    def parameters(self) -> int:
        return _count(self.model.model)


class Diffusers(Peer):
    """diffusers: the loop of its training tutorial; for the quality also the EMA of its unconditional script."""

    name = "diffusers"
    recipe = "AdamW 1e-4, warm-up and cosine decay, clip 1.0, EMA 0.9999 warmed up (power 3/4); eps, linear schedule"
    recipe_batch = 16
    default_lr = 1e-4
    warmup_steps = 500
    warmup_share = 0.1

    def __init__(self, lr: float | None = None, bf16: bool = False, ema: bool = False):
        from diffusers.training_utils import EMAModel

        super().__init__(lr, bf16)
        # its names are made when they are asked for, which no type checker can follow
        self.diffusers: Any = importlib.import_module("diffusers")
        self.model = self.diffusers.UNet2DModel(
            sample_size=SIZE,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 64, 128),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        ).train()
        self.scheduler = self.diffusers.DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.lr)
        # the tutorial has no EMA, so the speed is measured without one
        self.ema = EMAModel(self.model.parameters(), decay=0.9999, use_ema_warmup=True, power=3 / 4) if ema else None

    def step(self, images: Tensor, progress: float = 0.0) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        x_0 = images * 2 - 1
        noise = torch.randn_like(x_0)
        t = torch.randint(0, 1000, (len(x_0),), dtype=torch.int64)
        x_t = self.scheduler.add_noise(x_0, noise, t)
        with self.autocast():
            prediction = self.model(x_t, t, return_dict=False)[0]
            loss = F.mse_loss(prediction.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.model.parameters())
        self.steps_done += 1
        return loss.item()

    def learning_rate(self, progress: float) -> float:
        """The tutorial's schedule by the clock; its 500 steps of warm-up are cut to a tenth of the budget if longer."""
        warmup = min(1.0, max((self.steps_done + 1) / self.warmup_steps, progress / self.warmup_share))
        return self.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    @torch.inference_mode()
    def sample(self, n: int) -> np.ndarray:
        model = copy.deepcopy(self.model).eval()
        if self.ema is not None:
            self.ema.copy_to(model.parameters())
        scheduler = self.diffusers.DDIMScheduler.from_config(self.scheduler.config)
        pipeline = self.diffusers.DDIMPipeline(unet=model, scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return _levels(pipeline(batch_size=n, num_inference_steps=DDIM_STEPS, output_type="np").images)

    @property
    def parameters(self) -> int:
        return _count(self.model)


PEERS: tuple[type[Peer], ...] = (Lucidrains, Diffusers)


def _levels(images: np.ndarray) -> np.ndarray:
    """[0, 1] to the nearest of the 256 levels."""
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
