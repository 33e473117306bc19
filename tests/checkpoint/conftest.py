"""Files that are spoilt in many ways: some ways with every change, five times as many by `make test-slow`."""

import pytest


@pytest.fixture(params=[400, pytest.param(2000, marks=pytest.mark.slow)])
def ways(request: pytest.FixtureRequest) -> int:
    """In how many ways to spoil a file."""
    return request.param
