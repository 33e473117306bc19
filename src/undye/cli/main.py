"""`undye`: finds the command, and turns errors into lines and exit codes.

Exit codes: 0 done; 1 a bug in undye, with its traceback; 2 bad input, with one line; 130 and 143 stopped by Ctrl-C or
SIGTERM. Nothing heavy is imported before the arguments are known to be good.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from undye.cli.terminate import terminable
from undye.errors import SaidElsewhereError, UserError

COMMANDS = {
    "train": "train a model on images",
    "sample": "draw images from a model",
    "eval": "measure how good a model or a folder of images is: FID, KID, bits per dimension, ...",
    "compare": "measure several of them in the same manner, and say which differences are real",
    "features": "train what FID and its kin are measured in, on your own labelled images",
    "interpolate": "images on the way from one to another",
    "inpaint": "fill a masked part of images",
    "img2img": "turn images, strokes for example, into images of the model's kind",
    "progressive": "what the model takes the image to be while it samples",
    "denoise": "take noise of a known level out of images",
    "restore": "enlarge or colourise images",
    "forward": "show how images dissolve into noise: the forward process as a film",
    "optimise-grid": "find the step times that suit a model, so that few steps do, and keep them in it",
    "info": "say what a model is",
    "ema": "make a model with averaged weights of another length, after training",
    "data": "pack a data set into one file of decoded images, or check one",
    "import": "turn another project's model into a checkpoint of undye's",
    "export": "write a model for diffusers, or as a program: ONNX, torch.export",
}


def usage() -> str:
    """What `undye --help` prints."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
    return (
        "usage: undye COMMAND ...\n\n"
        "Denoising diffusion probabilistic models: train on your own images, sample, measure.\n\n"
        f"commands:\n{lines}\n\n"
        "`undye COMMAND --help` explains a command; `undye --version` prints the version.\n\n"
        "to begin:\n"
        "  undye train cpu --data fashion-mini --out runs/first --budget 5m\n"
        "  undye sample runs/first --n 64 --out samples.png\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminable(), warnings.catch_warnings():
            # a warning of ours is a line like an error of ours
            warnings.filterwarnings("default", message="the .* schedule of .* leaves")
            warnings.showwarning = _show_warning  # pyrefly: ignore
            return _dispatch(args)
    except SaidElsewhereError:
        return 2
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nundye: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away (`undye info X | head`): not our error, and nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # a full disk, a read-only folder: the user's to mend. One without a strerror is a bug of ours.
        if error.strerror is None:
            raise
        return _fail(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage(), end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"undye {version('undye')}")
        return 0
    if args[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown command {args[0]!r}: {hint}commands are {', '.join(COMMANDS)}")
    module = {"eval": "evaluate", "import": "imports", "optimise-grid": "optimise_grid"}.get(args[0], args[0])
    return importlib.import_module(f"undye.cli.{module}").main(args[1:])


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    if category.__module__.startswith("undye."):
        print(f"undye: warning: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)


def _fail(message: str) -> int:
    print(f"undye: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
