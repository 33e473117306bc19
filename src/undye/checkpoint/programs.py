"""A model as a program that others run: an ONNX file, or a torch.export archive. For C++, JavaScript, mobile devices.

The program is the whole Denoiser: (x_t, t[, label]) -> (x_0, eps[, var_fraction or log_var_offset]). The schedule is
inside, so that its user needs no arithmetic to understand the prediction. What is left to do outside is the sampler,
whose table is in the file's description, see `undye.checkpoint.program_info`.

x_t             float32 (batch, C, H, W) in [-1, 1]: any batch, the model's own H and W
t               float32 (batch): the paper's times 1..T, and any real number in (0, T]; others are not refused
label           int64 (batch), where the model has classes: 0..K-1, and K for no class where the model has a null label
x_0, eps        float32 (batch, C, H, W), unclipped
var_fraction    likewise, for learned_range; log_var_offset for learned: see `undye.Denoised`

H and W are fixed: undye samples at the model's size alone, and runtimes make better plans for what they know.
"""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from undye.checkpoint.program_info import KEY, MEMBER, Port, ProgramInfo, ProgramKind, check_target
from undye.config import ModelConfig
from undye.denoiser import Denoised, Denoiser
from undye.diffusion.schedule import NoiseSchedule, log_snr
from undye.errors import UserError
from undye.files import atomic_path

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TOLERANCE = 1e-4
"""By how much a program may differ from the Denoiser, in parts of the output's largest number in the image."""
ONNX_LIMIT = 2**31 - 2**24
"""Bytes of weights in one ONNX file: protobuf holds less than 2 GiB, of which the graph needs a little."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A program that was written: its inputs to its outputs."""


class _ScheduleInProgram(NoiseSchedule):
    """A schedule whose look-up is a few tensor operations: no checks of values, which a program cannot hold."""

    def log_alpha_bar_at(self, t: Tensor) -> Tensor:
        """As `NoiseSchedule.log_alpha_bar_at`, for floating-point t."""
        low = t.floor().long().clamp(0, self.num_steps - 1)
        return torch.lerp(self.log_alpha_bar[low], self.log_alpha_bar[low + 1], t.double() - low)


class _Program(Denoiser):
    """The Denoiser as it is traced: its outputs are plain tensors, and its labels are not looked at."""

    def __init__(self, network: torch.nn.Module, config: ModelConfig):
        super().__init__(network, config)
        self.schedule = _ScheduleInProgram(self.schedule.log_alpha_bar)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:  # pyrefly: ignore
        """What there is of x_0, eps, var_fraction and log_var_offset, in this order."""
        return outputs_of(super().forward(x_t, t, label))

    def _check(self, label: Tensor | None, x_t: Tensor) -> None:
        """A program has no errors to raise."""


def export_program(denoiser: Denoiser, to: ProgramKind, out: Path) -> Path:
    """Write a model as a program, whole or not at all, after comparing it with the model on random inputs.

    Args:
        denoiser: the model, on any device; it stays as it is. The program computes in float32.
        to: "onnx", or "torch" for an archive of torch.export.
        out: the new file, .onnx or .pt2.

    Raises:
        UserError: if `out` exists or has another suffix, a package is missing, the weights are too many for ONNX, or
            the exporter cannot express the network.
        RuntimeError: if the program does not compute what the model does; no file is left then.
    """
    check_target(to, out)
    size = sum(4 * tensor.numel() for tensor in denoiser.network.state_dict().values())
    if to == "onnx" and size > ONNX_LIMIT:
        raise UserError(f"this model has {size / 1e9:.1f} GB of weights, an ONNX file holds 2 GB: use --to torch")
    info, config = describe(denoiser), denoiser.config
    with atomic_path(out, durable=True) as temporary, _silence():
        network = copy.deepcopy(denoiser.network).cpu().float().eval().requires_grad_(False)
        try:
            traced = trace(_Program(network, config))
            run = (write_onnx if to == "onnx" else write_torch)(traced, info, temporary)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # the exporters raise all sorts for a network that they cannot express
            what = " ".join(str(error).split())[:200]
            raise UserError(
                f"torch's exporter cannot write a model of kind {config.network.kind} as a program for {to} "
                f"({type(error).__name__}: {what})"
            ) from error
        if (error := disagreement(run, Denoiser(network, config).eval())) > TOLERANCE:
            raise RuntimeError(f"the {to} program differs from the model by {error:.2g} of its scale: a bug in undye")
    return out


def describe(denoiser: Denoiser) -> ProgramInfo:
    """What the program of a model says of itself."""
    config = denoiser.config
    image = ("batch", config.channels, *config.image_size)
    inputs = [Port(name="x_t", dtype="float32", shape=image), Port(name="t", dtype="float32", shape=("batch",))]
    if config.num_classes is not None:
        inputs.append(Port(name="label", dtype="int64", shape=("batch",)))
    learned = {"learned_range": ["var_fraction"], "learned": ["log_var_offset"]}.get(config.variance, [])
    return ProgramInfo(
        undye=version("undye"),
        torch=torch.__version__,
        inputs=tuple(inputs),
        outputs=tuple(Port(name=name, dtype="float32", shape=image) for name in ("x_0", "eps", *learned)),
        parameters=sum(p.numel() for p in denoiser.network.parameters()),
        model=config,
        alpha_bar=tuple(denoiser.schedule.alpha_bar.tolist()),
    )


def trace(program: _Program) -> "ExportedProgram":
    """The operations of a program, for any batch."""
    inputs = example_inputs(program.config, 2, torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1)
    dynamic = [{0: batch} for _ in inputs]
    with torch.no_grad():
        traced = torch.export.export(program.eval(), inputs, dynamic_shapes=dynamic, strict=False)
    for part in traced.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine, which are nobody's business
    return traced


def write_torch(traced: "ExportedProgram", info: ProgramInfo, path: Path) -> Run:
    """Write an archive of torch.export, and read it back."""
    # by an open file, since the archive would remember a temporary name
    with path.open("wb") as file:
        torch.export.save(traced, file, extra_files={MEMBER: info.to_json()})
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda inputs: module(*inputs)


def write_onnx(traced: "ExportedProgram", info: ProgramInfo, path: Path) -> Run:
    """Write an ONNX file, and open it with onnxruntime."""
    import onnxruntime

    program = torch.onnx.export(
        traced,
        dynamo=True,
        verbose=False,
        input_names=[port.name for port in info.inputs],
        output_names=[port.name for port in info.outputs],
        dynamic_shapes=[{0: "batch"} for _ in info.inputs],
    )
    assert program is not None  # it is, but for the exporter of old
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces again, of the exporter's own
    program.model.metadata_props[KEY] = info.to_json()
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        named = {port.name: tensor.numpy() for port, tensor in zip(info.inputs, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run([port.name for port in info.outputs], named)]

    return run


def disagreement(run: Run, denoiser: Denoiser) -> float:
    """The largest difference of a program from its model, on the CPU, over random inputs of two batch sizes.

    In parts of the scale: the largest number in the image, of the output or of what the network predicts where that is
    larger after the factor by which its rounding grows on the way to x_0 or eps.
    """
    generator, config, schedule = torch.Generator().manual_seed(1), denoiser.config, denoiser.schedule
    worst = 0.0
    for batch in (1, 2):
        x_t, t, *label = inputs = example_inputs(config, batch, generator)
        with torch.inference_mode():
            value, learned = denoiser.predict(x_t, t, *label)
            expected = outputs_of(denoiser.read(value, learned, x_t, t))
            got = run(inputs)
        log_of_eps = denoiser.prediction.log_error_ratio(schedule, t)
        log_of_x_0 = log_of_eps - 0.5 * log_snr(schedule.log_alpha_bar_at(t))  # a x_0 + b eps = x_t
        growth = [log_of_x_0.exp(), log_of_eps.exp(), torch.ones(batch)]
        for one, other, factor in zip(got, expected, growth, strict=False):
            # an infinity may be the model's own answer, where so little is left of the data that x_0 overflows
            same = (one == other) | (one.isnan() & other.isnan())
            difference = (one - other).masked_fill(same, 0).abs().flatten(1).amax(1)
            scale = torch.maximum(_scale(other), factor * _scale(value)).clamp(min=1e-30)
            worst = max(worst, (difference / scale).nan_to_num(nan=float("inf")).max().item())
    return worst


def example_inputs(config: ModelConfig, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Random inputs of a program: x_t, t (the first of them an integer), and label where there are classes."""
    x_t = torch.randn(batch, config.channels, *config.image_size, generator=generator)
    t = config.schedule.num_steps * (1 - torch.rand(batch, generator=generator))
    t[0].ceil_()
    if config.num_classes is None:
        return x_t, t
    return x_t, t, torch.randint(config.num_classes + config.null_label, (batch,), generator=generator)


def outputs_of(found: Denoised) -> tuple[Tensor, ...]:
    """The outputs of a program, in their order."""
    return tuple(part for part in (found.x_0, found.eps, found.learned_variance) if part is not None)


def _scale(images: Tensor) -> Tensor:
    """The largest finite number of each image, (B,)."""
    return images.masked_fill(~images.isfinite(), 0).abs().double().flatten(1).amax(1)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what torch and onnxscript say while they work from the terminal; errors are raised as ever."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
