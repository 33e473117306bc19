import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import undye.data
from undye.data.names import NAMED_DATASETS, parse_image_size
from undye.errors import UserError

SIDE = st.integers(1, 99_999)


@given(SIDE, SIDE)
def test_size_reads_back(height, width):
    assert parse_image_size(f"{height}x{width}") == (height, width)
    assert parse_image_size(f" {height} ") == (height, height)


@pytest.mark.parametrize("text", ["", "0", "32x0", "x32", "32x", "-4", "3.5", "32x32x3", "big", "٣", "1000000"])
def test_bad_size(text):
    with pytest.raises(UserError, match="HxW"):
        parse_image_size(text)


def test_names_need_no_torch():
    # `undye` itself may import what it likes; this module and the package around it may not.
    code = (
        "import sys, types; u = types.ModuleType('undye'); u.__path__ = [sys.argv[1]]; sys.modules['undye'] = u; "
        "import undye.data.names; assert not {'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules)"
    )
    package = str(next(iter(undye.data.__path__)).removesuffix("/data"))
    subprocess.run([sys.executable, "-c", code, package], check=True)


def test_table_and_exports():
    assert all(name == entry.name and entry.about for name, entry in NAMED_DATASETS.items())
    assert all(hasattr(undye.data, name) for name in undye.data.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        undye.data.nothing  # noqa: B018
