"""The commands as functions, for use from Python."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

from undye.checkpoint.native import load
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.training.console import Console
from undye.training.events import Listener
from undye.training.folder import RunFolder
from undye.training.presets import run_preset
from undye.training.run import RunConfig, parse_duration
from undye.training.session import run


def train(
    data: str | PathLike[str],
    out: str | PathLike[str],
    preset: str = "cpu",
    *,
    image_size: tuple[int, int] | int | None = None,
    channels: Literal[1, 3] | None = None,
    labels: Literal["none", "folders", "auto"] | None = None,
    upscale: bool | None = None,
    budget: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    init: str | PathLike[str] | None = None,
    resume: bool = False,
    device: str | None = None,
    config: RunConfig | None = None,
    listeners: Sequence[Listener] | None = None,
) -> Denoiser:
    """Train a model: what `undye train` does.

    Args:
        data: a name (fashion-mini, ...), a folder of images, or an .npz or .npy file.
        out: the run's folder; must not hold anything unless `resume`.
        preset: the model and how it is trained, see `undye.presets`.
        image_size: (height, width), or one number for a square, to resize and crop to; None: as the images are.
        channels: 1 or 3; None: 3 if any image has colour.
        labels: class labels: none, from sub-folder names, or those that the data brings (auto); None: none.
        upscale: enlarge images that are smaller than asked instead of leaving them out.
        budget: time such as "10m", from the first step to the final weights; it decides the number of steps.
        steps: number of steps; None: the preset's, or what the budget allows.
        seed: names the random numbers of the run; None: 0.
        init: a model to start from instead of random weights.
        resume: go on with the run in `out` if there is one; its settings are the defaults of all others then.
        device: "cpu", "cuda", "mps"; None: the best there is.
        config: a whole RunConfig to start from, in place of the preset's.
        listeners: called with each event; None: progress on stderr.

    Returns:
        The trained model (EMA weights), in eval mode.

    Raises:
        UserError: for data or settings that cannot be used; nothing is written then.
        Interrupted: if Ctrl-C or SIGTERM stopped the run; it is saved and can be resumed.
    """
    if budget is not None and steps is not None:
        raise UserError("give a budget or a number of steps, not both: the budget decides the number of steps")
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    base = config or run_preset(preset)
    if resume and RunFolder(Path(out)).exists():
        base = RunFolder(Path(out)).read_config()
    base = replace(
        base,
        data=str(data),
        image_size=base.image_size if image_size is None else image_size,
        channels=base.channels if channels is None else channels,
        labels=base.labels if labels is None else labels,
        upscale=base.upscale if upscale is None else upscale,
        seed=base.seed if seed is None else seed,
        init=str(init) if init is not None else base.init,
        budget_seconds=parse_duration(budget) if budget is not None else base.budget_seconds,
    )
    if steps is not None:
        base = base.with_steps(steps)
    return load(
        run(base, str(out), resume=resume, device=device, listeners=[Console()] if listeners is None else listeners)
    )
