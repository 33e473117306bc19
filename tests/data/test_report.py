from pathlib import Path

import pytest

from undye.data import BadFile, LoadReport
from undye.errors import TooManyBadImages


def report(count, total=1000):
    return LoadReport(total, tuple(BadFile(Path(f"{k}.png"), "why") for k in range(count)))


def test_lines():
    assert report(0).lines() == []
    assert report(2).lines() == ["skipped 2 of 1,000 images:", "  0.png: why", "  1.png: why"]
    assert report(300).lines(limit=1) == ["skipped 300 of 1,000 images:", "  0.png: why", "  and 299 more"]
    assert len(report(300).lines(limit=None)) == 301
    assert len(report(300).lines()) == 102


def test_check():
    report(50).check(0.05)
    with pytest.raises(TooManyBadImages, match=r"^51 of 1,000 .*0\.png: why; 1\.png: why; 2\.png: why; and 48 more$"):
        report(51).check(0.05)
