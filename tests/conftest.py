"""Fixtures that several tests share."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.exported import check_exports_in
from tests.support.postgres import postgres_server
from tests.support.quick import (
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
)
from tests.support.tornet import system_tor, tor_network

__all__ = [
    "postgres_server",
    "pytest_collection_modifyitems",
    "pytest_ignore_collect",
    "pytest_runtest_call",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "system_tor",
    "tor_network",
]

# No test fails because the machine is busy.
settings.register_profile("cbfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cbfs")


def pytest_configure() -> None:
    """What the tests start has the signals of a program that is started at a terminal, also
    where the tests themselves are in the background of a script, or under nohup(1)."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


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
