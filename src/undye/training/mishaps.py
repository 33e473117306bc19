"""What ends a run before its time, told to the user: what happened, what is saved, how to go on."""

import json
from collections.abc import Sequence

from undye.device import is_out_of_memory
from undye.errors import UserError
from undye.files import write_text
from undye.training.folder import RunFolder
from undye.training.saver import last_good
from undye.training.trainer import NonFiniteError
from undye.world import LOST, World


def explained(error: Exception, step: int, world: World, folder: RunFolder) -> Exception:
    """An error of torch's or the system's as words to the user, if it is theirs to mend; else as it is.

    Args:
        error: what was raised.
        step: the last step that was taken.
        world: the processes of the run.
        folder: the run's.
    """
    text = str(error)
    if is_out_of_memory(error):
        return UserError(
            f"out of memory in step {step + 1}: lower --training.batch-size, raise --training.accumulate, or choose "
            f"--model.network.checkpointing; {last_good(folder)}"
        )
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return UserError(
            f"{what}, after step {step}; {last_good(folder)}: make room or mend the disk, and go on with --resume"
        )
    if world.size > 1 and any(word in text for word in ("onnection", "gloo", "NCCL")):
        return lost(folder)
    return error


def lost(folder: RunFolder) -> UserError:
    """Another process is gone, wherever that was noticed."""
    return UserError(f"{LOST} with --resume; {last_good(folder)}")


def not_finite(error: NonFiniteError, names: Sequence[str], folder: RunFolder) -> UserError:
    """A step that could not be taken; its images, timesteps and losses are written down beside the run.

    Args:
        error: what was raised.
        names: of the images of that step.
        folder: the run's.
    """
    rows = [
        {"image": name, "t": int(t), "loss": repr(float(loss))}
        for name, t, loss in zip(names, error.t, error.losses, strict=True)
    ]
    path = folder.path / f"not-finite-{error.step}.json"
    write_text(path, json.dumps(rows, indent=2) + "\n")
    return UserError(
        f"{error}: the batch is described in {path}; lower --training.lr, look at these images, or go on past such "
        f"steps with --training.non-finite skip; {last_good(folder)}"
    )
