"""`fashion-mini`: 12,000 images of Fashion-MNIST inside the package (made by `tools/make_fashion_mini.py`).

Fashion-MNIST is copyright Zalando SE under the MIT licence: `embedded/FASHION-MNIST-LICENSE.txt`.
"""

import hashlib
import io
from importlib import resources

import numpy as np
from jaxtyping import Int64, UInt8

from undye.errors import UserError

_SHA256 = "efefbe05b9d7eaf04f28ae39025070e3f555b25bf705ff9319bf8a7a4784fc6b"


def load_mini(split: str) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"]]:
    """The images and labels of `train` or `test`.

    Raises:
        UserError: the installed file is damaged.
    """
    blob = (resources.files("undye.data") / "embedded" / "fashion-mini.npz").read_bytes()
    if hashlib.sha256(blob).hexdigest() != _SHA256:
        raise UserError("the embedded fashion-mini.npz is damaged: install undye again")
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return arrays[f"{split}_images"][..., None], arrays[f"{split}_labels"].astype(np.int64)
