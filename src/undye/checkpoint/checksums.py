"""checksums.json: the SHA-256 of each file that a checkpoint cannot do without, so that damage is found, not used.

The model card and the metrics are not among them: they may be renewed later.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from undye.errors import UserError

CHECKSUMS = "checksums.json"


def checksums_text(folder: Path, names: Iterable[str]) -> str:
    """What checksums.json holds for the files `names` (relative) of a folder."""
    return json.dumps({name: _sha256(folder / name) for name in names}, indent=2) + "\n"


def check(folder: Path, names: Iterable[str]) -> None:
    """Compare the files `names` (relative) of a folder with its checksums.json; without one there is nothing to do.

    Raises:
        UserError: naming the first file that is missing or not what was written.
    """
    path = folder / CHECKSUMS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # version 0.1.0 wrote none
    except (OSError, ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"{path} is damaged: use an earlier checkpoint")
    for name in names:
        try:
            found = _sha256(folder / name)
        except FileNotFoundError:
            raise UserError(f"{folder / name} is missing: the checkpoint is incomplete") from None
        except OSError as error:
            raise UserError(f"cannot read {folder / name}: {error.strerror}") from None
        if stored.get(name) != found:
            raise UserError(
                f"{folder / name} is damaged (its SHA-256 is not that in {CHECKSUMS}): use an earlier checkpoint, "
                f"or, if you changed the file yourself, remove {CHECKSUMS}"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
