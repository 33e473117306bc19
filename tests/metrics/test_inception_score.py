"""The Inception Score at its bounds, by its definition, and whatever the order."""

import numpy as np
import pytest

from undye.errors import UserError
from undye.metrics.inception_score import inception_score

LOGITS = np.random.default_rng(0).standard_normal((503, 8)).astype(np.float32) * 3


def test_its_bounds():
    sure = 200 * np.eye(10)[np.arange(1000) % 10]
    assert inception_score(sure, splits=1).value == pytest.approx(10)
    assert inception_score(np.repeat(sure[:1], 1000, 0)).value == pytest.approx(1)
    assert inception_score(np.zeros((100, 10))).value == pytest.approx(1)


def test_underflow_is_no_nan():
    sure = 1e5 * np.eye(10)[np.arange(1000) % 3]
    assert inception_score(sure, splits=1).value == pytest.approx(3, rel=1e-3)


def test_the_definition():
    p = np.exp(LOGITS.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = np.exp(np.mean([sum(a * np.log(a / b) for a, b in zip(row, p.mean(0), strict=True)) for row in p]))
    found = inception_score(LOGITS, splits=1)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.std == 0
    assert inception_score(LOGITS + 1e4, splits=1).value == pytest.approx(expected, rel=1e-3), "logits have no zero"


def test_samples_that_come_class_by_class_are_shuffled():
    sure = 20 * np.eye(10)[np.arange(1000) // 100]
    assert inception_score(sure, splits=10).value > 8, "in order each split would hold one class and score 1"
    assert inception_score(sure, seed=1).value != inception_score(sure, seed=2).value
    assert inception_score(sure, seed=1) == inception_score(sure, seed=1)


def test_all_images_are_in_one_split():
    assert inception_score(LOGITS, splits=503).value == pytest.approx(1), "one image per split is its own mean"
    with pytest.raises(UserError, match="503 images cannot be split into 504"):
        inception_score(LOGITS, splits=504)
    with pytest.raises(UserError, match="NaN"):
        inception_score(LOGITS * np.nan)
