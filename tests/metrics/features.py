"""A feature extractor for tests: fixed random projections, some of them bent."""

import hashlib

import numpy as np

from undye.metrics.extractor import FeatureExtractor, Features


class Projections(FeatureExtractor):
    """6 pooled features, 4 spatial ones, 5 classes."""

    name, dims, spatial_dims, num_classes = "projections", 6, 4, 5

    def __init__(self, seed: int = 0):
        self.seed, self.hash = seed, hashlib.sha256(str(seed).encode()).hexdigest()
        self.calls = 0

    def features(self, images: np.ndarray) -> Features:
        self.calls += len(images)
        x = images.reshape(len(images), -1).astype(np.float64) / 128 - 1
        matrix = np.random.default_rng(self.seed).standard_normal((x.shape[1], 15)) / np.sqrt(x.shape[1])
        y = np.tanh(2 * x @ matrix).astype(np.float32)
        return Features(y[:, :6], y[:, 6:10], 3 * y[:, 10:])
