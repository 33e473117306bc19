"""The versions that a number was made with."""

import torch


def undye_version() -> str:
    """Of this package."""
    from importlib.metadata import version

    return version("undye")


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"undye": undye_version(), "torch": torch.__version__}
