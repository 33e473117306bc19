"""grids.json: the step grids that were made for a model, beside its weights; made later and renewed without them."""

import json
from collections.abc import Mapping
from pathlib import Path

from undye.config_grids import OptimisedGrid
from undye.errors import UserError
from undye.files import write_text
from undye.structure import structure, unstructure

GRIDS = "grids.json"
VERSION = 1


def grids_text(grids: Mapping[int, OptimisedGrid]) -> str:
    """What grids.json holds."""
    ordered = [unstructure(grids[steps]) for steps in sorted(grids)]
    return json.dumps({"version": VERSION, "grids": ordered}, indent=1) + "\n"


def read_grids(folder: Path, num_steps: int) -> dict[int, OptimisedGrid]:
    """The grids of a checkpoint folder, by their number of steps; none where there is no file.

    Args:
        folder: of the checkpoint.
        num_steps: the model's T, where every grid begins.

    Raises:
        UserError: if the file is damaged, or its grids are not for this model.
    """
    path = folder / GRIDS
    advice = "remove it, or make it anew with undye optimise-grid"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged: {advice}") from None
    if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(data.get("grids"), list):
        raise UserError(f"{path} holds no grids of version {VERSION}: {advice}")
    grids = {}
    for entry in data["grids"]:
        try:
            grid = structure(OptimisedGrid, entry, GRIDS)
        except UserError as error:
            raise UserError(f"{path} is damaged ({error}): {advice}") from None
        if grid.times[0] != num_steps:
            raise UserError(f"{path} is of a model with T = {grid.times[0]:g}, not {num_steps}: {advice}")
        grids[grid.steps] = grid
    return grids


def add_grids(folder: Path, grids: Mapping[int, OptimisedGrid], num_steps: int) -> None:
    """Put grids into a checkpoint folder, in place of earlier ones of the same number of steps.

    Raises:
        UserError: if what is there is damaged, or the folder cannot be written to.
    """
    kept = read_grids(folder, num_steps)
    try:
        write_text(folder / GRIDS, grids_text({**kept, **grids}))
    except OSError as error:
        raise UserError(f"cannot write {folder / GRIDS}: {error.strerror}") from None
