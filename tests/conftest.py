"""Fixtures that several tests share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exported import check_exports_in
from tests.tornet import system_tor, tor_network

__all__ = ["system_tor", "tor_network"]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: for very many stores, which a killed process
    leaves there as on a disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as place:
        yield Path(place)


@pytest.fixture(autouse=True, scope="module")
def _exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever accounts and stores the tests of a module have left can be exported and restored."""
    place = tmp_path_factory.getbasetemp()
    before = set(place.iterdir())
    yield
    for made in set(place.iterdir()) - before:
        check_exports_in(made)
