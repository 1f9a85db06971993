"""Fixtures of the tests that are for every store."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.server.conformance.backends import BACKENDS, Backend, Fresh
from tests.server.conformance.on_postgres import on_postgres


@pytest.fixture(params=[*BACKENDS, pytest.param("postgres", marks=pytest.mark.slow)])
def fresh(request: pytest.FixtureRequest, memory: Path) -> Fresh:
    if request.param == "postgres":
        return partial(on_postgres, request.getfixturevalue("postgres_server"))
    return partial(BACKENDS[request.param], memory)


@pytest.fixture
def backend(fresh: Fresh) -> Iterator[Backend]:
    with fresh() as made:
        yield made
