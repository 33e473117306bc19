"""torch.compile without graph breaks, and torch.export: in a process without the shape checks, which break graphs."""

import subprocess
import sys
import textwrap

SCRIPT = """
import torch
from dataclasses import replace
from undye.config import CompactConfig, UNetConfig
from undye.networks import build_network

torch.set_num_threads(1)
small = UNetConfig(base_channels=8, channel_mult=(1, 2), norm_groups=4, num_res_blocks=1)
NETWORKS = {
    "cpu": CompactConfig(channels=(16, 24), blocks=(1, 2), head_channels=8),
    "ddpm-cifar10": small,
    "openai": replace(
        small, scale_shift_norm=True, head_channels=4, resample="resblock", time_order="cos_sin",
        time_denominator="half", init="torch_zero", stem_channels=4,
    ),
    "pool": replace(small, resample="pool", middle_attention=False),
    "checkpointing": replace(small, channel_mult=(1,), attention_levels=(0,), num_heads=2, checkpointing=True),
}


def made(config):
    torch.manual_seed(0)
    network = build_network(config, 3, 6, 4)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def batch(n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 3, 10, 8, generator=generator)
    return x, 999 * torch.rand(n, generator=generator), torch.randint(5, (n,), generator=generator)


def step(function, network):
    torch.manual_seed(1)
    out = function(*batch(2))
    return out, torch.autograd.grad(out.square().sum(), list(network.parameters()))


def check_compile(config, backend):
    torch._dynamo.reset()  # or each network counts as one more compilation of the same code
    network = made(config).train()
    out, gradients = step(network, network)
    out_compiled, gradients_compiled = step(torch.compile(network, fullgraph=True, backend=backend), network)
    torch.testing.assert_close(out_compiled, out)
    for one, other in zip(gradients_compiled, gradients, strict=True):
        torch.testing.assert_close(one, other)


def check_compile_without_labels(config):
    network = made(config).eval()
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*batch(2)[:2]), network(*batch(2)[:2]))


def check_export(config):
    network, any_number = made(config).eval(), torch.export.Dim("batch", min=2, max=64)
    with torch.no_grad():
        exported = torch.export.export(network, batch(2), dynamic_shapes=({0: any_number},) * 3).module()
        for n in (2, 5):
            torch.testing.assert_close(exported(*batch(n)), network(*batch(n)))
"""


def run(body):
    script = SCRIPT + textwrap.dedent(body)
    # -W: pytest's own warnings filters do not reach this process; a graph break would be an error by fullgraph
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def test_compile_has_no_graph_breaks():
    run(
        """
        for name, config in NETWORKS.items():
            # the eager backend does not replay the random numbers of what is computed again
            check_compile(config, "aot_eager" if name == "checkpointing" else "eager")
        check_compile_without_labels(replace(small, downsample_padding="symmetric"))
        """
    )


def test_export_of_any_batch_size():
    run("for name in ('cpu', 'ddpm-cifar10'): check_export(NETWORKS[name])")
