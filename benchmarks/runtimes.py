"""The network's forward pass on the CPU by PyTorch and by the optimised runtimes: time, and distance of the answers.

    python -m benchmarks.runtimes MODEL [--batches 1 16 64] [--rounds 9] [--only NAME ...] [--skip-fd]

MODEL is a run folder, or a preset, whose weights are then random. CPU seconds of one thread, all contenders in turns;
ratios are within a round, against PyTorch as undye runs it (float32, channels_last, inference mode). For a trained
model of 28x28 greyscale images, the Frechet distance of DDIM samples to the test images in the features that come with
undye, from the same noise for each precision. OpenVINO takes part where it is installed (pip install openvino
nncf).
"""

import argparse
import importlib.util
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import undye
from benchmarks.data import load as load_data
from benchmarks.data import machine
from benchmarks.turns import take_turns
from undye.denoiser import Denoiser, channels_last
from undye.files import write_text
from undye.metrics.bootstrap import fid_replicates, resample_weights
from undye.metrics.extractor import default_extractor, load_extractor
from undye.metrics.moments import Moments
from undye.presets import MODEL_PRESETS
from undye.runtimes import accelerated
from undye.runtimes.onnx_network import feed, write_network
from undye.runtimes.quantise import Inputs, calibration_inputs

BASE = "PyTorch float32"
SAMPLES, STEPS = 2000, 50
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def load(name: str) -> Denoiser:
    if name not in MODEL_PRESETS:
        return undye.load(name).requires_grad_(False)
    torch.manual_seed(0)
    denoiser = Denoiser.from_preset(name).eval().requires_grad_(False)
    for parameter in denoiser.parameters():  # a fresh network answers 0, which would make any error look large
        parameter += 0.02 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    return channels_last(denoiser)


def bf16(network: Network) -> Network:
    def run(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x, t, label).float()

    return run


def compiled(denoiser: Denoiser, inputs: Inputs, low: bool = False) -> Network:
    """By inductor, with the weights frozen into the code; nothing is compiled for another batch size."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    network = torch.compile(denoiser.network, dynamic=False)
    run = bf16(network) if low else network
    with inductor.patch(freezing=True), torch.no_grad():
        run(*inputs)
    return run


def traced(denoiser: Denoiser, inputs: Inputs) -> Network:
    """TorchScript, frozen and optimised for inference."""
    given = tuple(part for part in inputs if part is not None)
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(denoiser.network, given)))
    return lambda x, t, label: frozen(x, t) if label is None else frozen(x, t, label)


def openvino(denoiser: Denoiser, images: np.ndarray, precision: str) -> Network:
    """OpenVINO from the ONNX file that onnxruntime gets; int8 by NNCF, with the same layers left out."""
    import nncf
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_network(denoiser.network, denoiser.config, path)
        model = ov.Core().read_model(path)
    if precision == "int8":
        layers = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
        sides = [max(op.input(1).get_partial_shape().to_shape()[2:]) for op in layers]
        kept = {op.get_friendly_name() for op, side in zip(layers, sides, strict=True) if side == 1}
        kept |= {layers[0].get_friendly_name(), layers[-1].get_friendly_name()}
        batches = [feed(*batch) for batch in calibration_inputs(denoiser, images)]
        ignored = nncf.IgnoredScope(names=sorted(kept))
        model = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches), ignored_scope=ignored)
    hint = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    request = ov.Core().compile_model(model, "CPU", hint).create_infer_request()
    return lambda x, t, label: torch.from_numpy(request.infer(feed(x, t, label))[0].copy())


def contenders(denoiser: Denoiser, images: np.ndarray, inputs: Inputs) -> Iterator[tuple[str, Callable[[], Network]]]:
    def runtime(**options: object) -> nn.Module:
        return accelerated(denoiser, **options).network

    yield BASE, lambda: denoiser.network
    yield "PyTorch bf16 autocast", lambda: bf16(denoiser.network)
    yield "torch.compile, frozen", lambda: compiled(denoiser, inputs)
    yield "torch.compile, frozen, bf16", lambda: compiled(denoiser, inputs, low=True)
    yield "TorchScript, frozen", lambda: traced(denoiser, inputs)
    yield "onnxruntime float32", lambda: runtime()
    yield "onnxruntime int8", lambda: runtime(precision="int8", calibration=images)
    if importlib.util.find_spec("openvino") and importlib.util.find_spec("nncf"):
        for precision in ("float32", "bf16", "int8"):
            yield f"OpenVINO {precision}", lambda precision=precision: openvino(denoiser, images, precision)


def repeat(network: Network, inputs: Inputs, times: int) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for _ in range(times):
                network(*inputs)

    return run


def time_batch(
    denoiser: Denoiser, images: np.ndarray, inputs: Inputs, rounds: int, only: Sequence[str]
) -> Iterator[str]:
    """A row of the table for each contender."""
    networks, errors = {}, {}
    with torch.inference_mode():
        expected = denoiser.network(*inputs)
    for name, make in contenders(denoiser, images, inputs):
        if only and name != BASE and name not in only:
            continue
        networks[name] = make()
        with torch.inference_mode():
            answer = networks[name](*inputs)
        errors[name] = ((answer - expected).abs().max() / expected.abs().max()).item()
    start = time.process_time()
    repeat(denoiser.network, inputs, 3)()
    times = max(1, round(0.5 / ((time.process_time() - start) / 3)))  # half a second a turn
    taken = take_turns({name: repeat(net, inputs, times) for name, net in networks.items()}, rounds, time.process_time)
    for name, error in errors.items():
        low, mid, high = np.percentile([turn[BASE] / turn[name] for turn in taken], [25, 50, 75])
        rate = len(inputs[0]) * times / np.median([turn[name] for turn in taken])
        yield f"| {len(inputs[0])} | {name} | {rate:.1f} | {mid:.2f} ({low:.2f} to {high:.2f}) | {error:.1e} |"


def distances(denoiser: Denoiser) -> Iterator[str]:
    """A row for each precision: the Frechet distance of samples from the same noise to the test images."""
    images = load_data(None)
    features = default_extractor(images.name)
    if features is None:
        raise undye.UserError(f"no features are known for {images.name}: use --skip-fd")
    extractor = load_extractor(features, "cpu")
    real = Moments.of(extractor(images.test).pooled)
    half = Denoiser(Bf16Network(denoiser.network), denoiser.config).eval()
    models = {
        BASE: denoiser,
        "PyTorch bf16 autocast": half,
        "onnxruntime float32": accelerated(denoiser),
        "onnxruntime int8": accelerated(denoiser, precision="int8", calibration=images.train),
    }
    for name, model in models.items():
        samples = undye.sample(model, SAMPLES, "ddim", STEPS, grid="uniform")
        found = fid_replicates(extractor(samples).pooled, real, resample_weights(SAMPLES, seed=0))
        assert found is not None, "fewer images than features"
        yield f"| {name} | {found.value:.2f} | {found.interval().standard_error:.2f} |"


class Bf16Network(nn.Module):
    """A network under autocast."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return bf16(self.network)(x, t, label)


def main() -> None:
    parser = argparse.ArgumentParser(description="Optimised runtimes on the CPU beside PyTorch.")
    parser.add_argument("model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--skip-fd", action="store_true")
    parser.add_argument("--out", default="benchmarks/results/runtimes.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    denoiser = load(args.model)
    trained_here = args.model not in MODEL_PRESETS and denoiser.config.image_size == (28, 28)
    shape = (1024, *denoiser.config.image_size, denoiser.config.channels)
    images = load_data(None).train if trained_here else np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    x, t, label = (None if part is None else part for part in zip_batches(calibration_inputs(denoiser, images, seed=1)))
    rows = []
    for batch in args.batches:
        inputs = (x[:batch], t[:batch], None if label is None else label[:batch])
        rows += time_batch(denoiser, images, inputs, args.rounds, args.only)
    versions = ", ".join(
        f"{p} {version(p)}" for p in ("torch", "onnxruntime", "openvino") if importlib.util.find_spec(p)
    )
    name = args.model if args.model in MODEL_PRESETS else f"a trained {denoiser.config.network.kind} network"
    # neither where the model lies nor where the table goes is anyone's business
    given = [arg for arg, before in zip(sys.argv[1:], sys.argv, strict=False) if "--out" not in (arg, before)]
    command = shlex.join("MODEL" if arg == args.model and name != arg else arg for arg in given)
    lines = [
        f"# Runtimes on the CPU: {name}",
        "",
        f"`python -m benchmarks.runtimes {command}`, {versions}, {machine()['cpu']}, {platform.machine()}, one thread.",
        "Images are network calls of one image, per CPU second; ratios are medians (quartiles) within rounds; the",
        "error is the largest in parts of the largest number of the answer.",
        "",
        "| batch | runtime | images / CPU s | times PyTorch float32 | error |",
        "|---|---|---|---|---|",
        *rows,
    ]
    if trained_here and not args.skip_fd:
        lines += [
            "",
            f"{SAMPLES} samples, DDIM, {STEPS} steps, the same noise:",
            "",
            "| runtime | distance | bootstrap standard error |",
        ]
        lines.append("|---|---|---|")
        lines += distances(denoiser)
    text = "\n".join([*lines, ""])
    print(text)
    write_text(Path(args.out), text)


def zip_batches(batches: Iterator[Inputs]) -> Inputs:
    """All of them as one."""
    x, t, label = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(t), None if label[0] is None else torch.cat(label)


if __name__ == "__main__":
    main()
