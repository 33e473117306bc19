"""How many images go through a network at a time, where nobody says."""

import os
from pathlib import Path
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn

from undye.denoiser import Denoiser
from undye.device import default_batch, is_out_of_memory

SHARE = 0.5
"""Of the memory that is free, for what the layers of a network give."""
GPU_TIMES = 8
"""How many times as many images keep a GPU busy as a CPU."""
_CGROUP = Path("/sys/fs/cgroup")
_measured: "WeakKeyDictionary[nn.Module, dict[tuple, int]]" = WeakKeyDictionary()


def fitting_batch(denoiser: Denoiser, at_most: int = 2**30) -> int:
    """How many images of `at_most`: as suits their size and the device, and fewer where memory would not do.

    That is looked at layer by layer: what all of them give for an image is more than is there at a time. Where there is
    plenty for any order of layers nothing is computed; else one image is, once for a network.

    No result depends on it, but for float32 rounding. Where memory runs out all the same, smaller batches are tried.
    """
    weights = next(denoiser.parameters(), torch.empty(0))
    size = default_batch(*denoiser.config.image_size)
    if hasattr(denoiser.network, "reshard"):
        return size  # its weights lie in several processes, which must agree on each call
    size *= GPU_TIMES if weights.device.type == "cuda" else 1
    room = SHARE * free_memory(weights.device)
    if min(size, at_most) * _bound(denoiser, weights) <= room or at_most == 1:
        return size
    return max(1, min(size, int(room / max(1, features_of_one(denoiser)))))


def free_memory(device: torch.device) -> int:
    """Bytes that this process may have there: of a CPU's, what the system and the container leave, shared fairly."""
    if device.type == "cuda":
        # and what torch keeps for the next who asks
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = psutil.virtual_memory().available
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            # files that were read lie there too, as long as nobody needs the room
            stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
            files = sum(int(stat.get(name, 0)) for name in ("inactive_file", "active_file", "slab_reclaimable"))
            free = min(free, max(0, int(limit) - int(used) + files))
    except (OSError, ValueError):
        pass  # no container, or an older kind
    return free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _bound(denoiser: Denoiser, weights: Tensor) -> int:
    """Bytes of all layers' outputs for an image, if each were as large as the image."""
    height, width = denoiser.config.image_size
    widths = (getattr(m, "out_channels", None) or getattr(m, "out_features", 0) for m in denoiser.network.modules())
    # what is done to them between the layers as often again
    return 2 * sum(w for w in widths if isinstance(w, int)) * height * width * weights.element_size()


def features_of_one(denoiser: Denoiser) -> int:
    """Bytes of all layers' outputs for an image, by computing one."""
    network, config = denoiser.network, denoiser.config
    weights = next(denoiser.parameters(), torch.empty(0))
    known, key = _measured.setdefault(network, {}), (tuple(config.image_size), weights.dtype, weights.device)
    if key not in known:
        found = [0]

        def count(module: nn.Module, inputs: object, out: object) -> None:
            if isinstance(out, Tensor) and not any(True for _ in module.children()):
                found[0] += out.numel() * out.element_size()

        label = None if config.num_classes is None else torch.zeros(1, dtype=torch.int64, device=weights.device)
        x = torch.zeros(1, config.channels, *config.image_size, device=weights.device)
        hooks = [module.register_forward_hook(count) for module in network.modules()]
        was_training = denoiser.training
        denoiser.eval()
        try:
            with torch.no_grad():
                denoiser(x, torch.ones(1, device=weights.device), label)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return 2**62  # not even one: whoever draws it says so
        finally:
            denoiser.train(was_training)
            for hook in hooks:
                hook.remove()
        known[key] = found[0]
    return known[key]
