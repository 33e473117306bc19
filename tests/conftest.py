import pytest
import torch
from hypothesis import HealthCheck, settings

# the same examples on every run and machine; a loaded machine is no failure
settings.register_profile(
    "undye", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("undye")

# fixtures of modules are made before `_one_thread` below, and other threads are other roundings
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _known_global_seed():
    """No test depends on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny maps gain nothing from threads, and lose much where other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
