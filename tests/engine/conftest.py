"""Fixtures that tests of the engine share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.world import World


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers for the accounts of one module."""
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("e"), stack)
