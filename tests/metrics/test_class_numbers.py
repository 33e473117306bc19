"""Classes of samples by the numbers of the reference's: never another class by its place alone."""

import numpy as np
import pytest

from undye.errors import UserError
from undye.metrics.class_numbers import class_numbers

CLOTHES = ("shirt", "shoe", "bag", "coat")


@pytest.mark.parametrize(
    ("labels", "names", "others", "expected"),
    [
        ([0, 1, 1], ("bag", "shirt"), CLOTHES, [2, 0, 0]),  # by name
        ([0, 1, 1], ("1", "3"), CLOTHES, [1, 3, 3]),  # folders called by the numbers of classes that have names
        ([0, 2], ("0", "10", "2"), tuple("abcdefghijk"), [0, 2]),  # sorted as text
        ([0, 1], ("0", "2"), ("0", "1", "2"), [0, 2]),
        ([3, 1], CLOTHES, ("0", "1", "2", "3"), [3, 1]),  # labels without names, as an array has them
        ([0, 0], ("bag", "hat"), CLOTHES, [2, 2]),  # a class without images
    ],
)
def test_by_name_or_by_number(labels, names, others, expected):
    found = class_numbers(np.array(labels), names, others, "these")
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "names", "others", "unknown"),
    [
        ([0, 1], ("bag", "hat"), CLOTHES, "hat"),
        ([0, 1], ("a", "b"), ("b", "c"), "a"),
        ([0, 1], ("0", "4"), CLOTHES, "4"),
        ([4], ("a", "b", "c", "d", "e"), ("0", "1"), "e"),
    ],
)
def test_a_class_that_the_reference_has_not_is_named(labels, names, others, unknown):
    with pytest.raises(UserError, match=f"these has the class '{unknown}', the reference set only {', '.join(others)}"):
        class_numbers(np.array(labels), names, others, "these")
