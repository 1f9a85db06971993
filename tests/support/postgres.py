"""PostgreSQL for tests: one server with a database for each test. As root it is run as the user
that Debian's package has made, as it refuses to be root's. It ends with the process that has
started it, whatever ends that."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

USER = "postgres"
PATIENCE = 60.0
"""Seconds after which a test that waits has failed. No test measures time."""

LOOK = 0.02

PORTS = range(18_000, 32_000)
"""Below those that the system gives to whoever connects."""

QUIET = {
    "listen_addresses": "",
    "fsync": "on",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum_naptime": "5s",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


def programs() -> Path:
    """Where the newest PostgreSQL on this machine has its programs."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(found, key=lambda path: int(path.parts[-3])).parent


def as_user(command: Sequence[str | Path], end: str) -> list[str]:
    """A command under the user that PostgreSQL needs. It gets the signal ``end`` when its parent
    goes. It may read the Python of root, as Patroni is of that."""
    who = ["--pdeathsig", end]
    if os.getuid() == 0:
        who += ["--reuid", USER, "--regid", USER, "--clear-groups"]
        who += ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return ["setpriv", *who, *map(str, command)]


@contextmanager
def place_for(name: str, *, memory: bool) -> Iterator[Path]:
    """A directory that belongs to that user, in memory if that is wanted and there is such a place:
    a test that is not about disks needs none."""
    shared = Path("/dev/shm")
    there = shared if memory and os.access(shared, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix=f"cbfs-{name}-", dir=there))
    try:
        if os.getuid() == 0:
            shutil.chown(path, USER, USER)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody has."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise AssertionError("no port is free")


def url(place: str | Path, port: int, database: str) -> str:
    """The address of a database whose server has its socket there."""
    return f"postgresql://{USER}@:{port}/{database}?host={quote(str(place), safe='')}"


@dataclass(frozen=True)
class PostgresServer:
    """One server."""

    place: Path
    process: "subprocess.Popen[bytes]"
    numbers: Iterator[int]

    def execute(self, text: str, database: str = "postgres") -> list[Any]:
        """The rows of a statement."""
        with psycopg.connect(url(self.place, 5432, database), autocommit=True) as connection:
            found = connection.execute(text.encode())
            return found.fetchall() if found.description else []

    def database(self) -> str:
        """The address of a new database."""
        name = f"cbfs{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return url(self.place, 5432, name)


@contextmanager
def running_postgres(**settings: str) -> Iterator[PostgresServer]:
    """A server of its own, as safe as one that is in use."""
    with place_for("postgres", memory=True) as place:
        data, log = place / "data", place / "log"
        made = [str(programs() / "initdb"), "-D", str(data), "-U", USER, "-A", "trust"]
        subprocess.run(
            as_user([*made, "-E", "UTF8", "--locale=C", "--no-sync"], "KILL"),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        said = QUIET | {"unix_socket_directories": str(place), "port": "5432"} | settings
        options = [word for name, value in said.items() for word in ("-c", f"{name}={value}")]
        with log.open("wb") as file:
            process = subprocess.Popen(
                as_user([programs() / "postgres", "-D", data, *options], "QUIT"), stderr=file
            )
        try:
            server = PostgresServer(place, process, count(1))
            wait_until(lambda: answers(url(place, 5432, "postgres")), log)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(PATIENCE)


def answers(address: str) -> bool:
    """Whether a server can be asked something."""
    try:
        psycopg.connect(address, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_until(seen: Any, *logs: Path) -> None:
    """Until ``seen()``. What the logs say is told when it is never."""
    end = time.monotonic() + PATIENCE
    while not seen():
        if time.monotonic() > end:
            said = "\n".join(log.read_text(errors="replace")[-3_000:] for log in logs)
            raise AssertionError(f"what was waited for has not come; logs:\n{said}")
        time.sleep(LOOK)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of the tests' own."""
    with running_postgres() as server:
        yield server
