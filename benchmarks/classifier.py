"""A small classifier, trained here, whose penultimate features say how far samples are from real images."""

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.data import Images, say

FEATURES = 64
EPOCHS = 4
BATCH = 128


class Classifier(nn.Module):
    """Two convolutions and two linear layers; `features` is the layer before the last."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 7 * 7, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (B, 1, 28, 28) in [-1, 1]."""
        return self.head(self.body(x))

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """float64 (N, 64) of uint8 images (N, 28, 28, 1)."""
        self.eval()
        return np.concatenate([self.body(_scale(part)).double().numpy() for part in _parts(images)])

    @torch.inference_mode()
    def classes(self, images: np.ndarray) -> np.ndarray:
        """The likeliest class of each image."""
        self.eval()
        return np.concatenate([self(_scale(part)).argmax(1).numpy() for part in _parts(images)])


def train(images: Images, seed: int, epochs: int = EPOCHS) -> tuple[Classifier, dict[str, float]]:
    """Train on the training split.

    Returns:
        The classifier, and its accuracy on the test split with the seconds it took.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(int(images.train_labels.max()) + 1).to(memory_format=torch.channels_last)
        labels = torch.from_numpy(images.train_labels)
        total = epochs * (len(labels) // BATCH)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=total)
        start = time.perf_counter()
        for epoch in range(epochs):
            model.train()
            for index in torch.randperm(len(labels)).split(BATCH)[: len(labels) // BATCH]:
                loss = F.cross_entropy(model(_scale(images.train[index.numpy()])), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            say(f"classifier: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}")
    accuracy = float((model.classes(images.test) == images.test_labels).mean())
    return model, {"test_accuracy": accuracy, "seconds": time.perf_counter() - start, "epochs": epochs}


def _scale(images: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return x.contiguous(memory_format=torch.channels_last)


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[i : i + 1000] for i in range(0, len(images), 1000)]
