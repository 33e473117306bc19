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
    """Compare the files `names` (relative) of a folder with its checksums.json.

    Without one there is nothing to do, unless config.json says that there should be one.

    Raises:
        UserError: naming the first file that is missing or not what was written.
    """
    path = folder / CHECKSUMS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if _promised(folder):
            raise UserError(
                f"{path} is missing, and without it damage to the other files would not be found: bring it back, or "
                "use an earlier checkpoint"
            ) from None
        return
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
                f"or, if you changed the file yourself, write {found} there"
            )


def _promised(folder: Path) -> bool:
    """Whether a checkpoint was written with checksums; version 0.1.0 wrote none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever needs it will say what is wrong with it
    return isinstance(config, dict) and config.get("checksums") == CHECKSUMS


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
