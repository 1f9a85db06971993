"""What the programs read in before they answer, counted in modules: a clock would tell more of the
machine than of the program. Each module takes some half a millisecond, and 20 KiB for as long as
the program lives."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.mounted import mounted
from tests.support.world import ENVIRONMENT, WAIT, World, program

pytestmark = pytest.mark.mount

HEAVY: Final = frozenset(
    (
        *("trio", "pyfuse3", "lmdb", "cryptography", "nacl", "msgpack", "ssl", "email"),
        *("importlib.metadata", "precis_i18n", "tomllib"),
    )
)
"""What no command brings with it that is done in a moment."""

NEVER: Final = frozenset(
    (
        *("stem", "python_socks", "keyring", "urllib.request", "http.client", "prometheus_client"),
        *("asyncio", "unittest", "sqlite3", "multiprocessing", "concurrent.futures.process"),
        *("psycopg", "h11", "pytest", "importlib_metadata"),
    )
)
"""What nothing needs that has no Tor, no keyring and no metrics."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Modules that may have been read in when a program answers, and those that must not be."""

    most: int
    never: frozenset[str]


PROGRAMS: Final = {
    "cbfs --help": Limit(120, HEAVY | NEVER),
    "cbfs status": Limit(140, HEAVY | NEVER),
    "cbfs sendmail": Limit(262, NEVER | {"trio", "pyfuse3", "lmdb"}),
    "cbfs verify": Limit(212, NEVER | {"trio", "pyfuse3", "lmdb"}),
    "mount.cbfs": Limit(621, NEVER),
    "mount.cbfs -o only": Limit(320, NEVER | {"lmdb", "nacl", "cryptography", "cbfs.tree.tree"}),
    "cbfs-server": Limit(391, NEVER | {"pyfuse3", "cbfs"}),
    "cbfs-names": Limit(406, NEVER | {"pyfuse3", "cbfs"}),
}
"""The one place for them. Who needs a module more raises a limit by it, and says what for."""

TELLING: Final = {**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"}
"""Python tells on standard error of each module that it has read in."""


def read_in(told: str) -> set[str]:
    """The modules of which Python has told."""
    lines = (line.rpartition("|") for line in told.splitlines() if line.startswith("import time:"))
    return {name.strip() for _, _, name in lines} - {"imported package"}


def excess(found: set[str], limit: Limit) -> list[str]:
    """What is wrong with the modules that were found, in words."""
    below = {each for each in found for never in limit.never if f"{each}.".startswith(f"{never}.")}
    more = [f"{len(found)} modules, and not {limit.most}"] if len(found) > limit.most else []
    return [*more, *sorted(below)]


def check(name: str, told: str) -> None:
    found = read_in(told)
    assert len(found) > 50, told
    assert not excess(found, PROGRAMS[name])


def ended(*words: str | Path) -> str:
    """What Python tells of a program that ends by itself: of a mount, until it answers."""
    done = subprocess.run(
        program(*map(str, words)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=WAIT,
        check=True,
        env=TELLING,
    )
    return done.stderr


def served(*words: str | Path) -> str:
    """What Python tells of a server until it answers."""
    command = program(*map(str, words), "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=TELLING
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.terminate()
        return server.communicate(timeout=WAIT)[1]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("imports"), stack)


def test_commands_of_every_day_import_little(here: World) -> None:
    check("cbfs --help", ended("cbfs", "--help"))
    with mounted() as mount:
        check("cbfs status", ended("cbfs", "status", mount.path))
        fingerprint = (mount.path / "contacts" / "bob" / "fingerprint").read_text()
        check("cbfs sendmail", ended("cbfs", "sendmail", "--help"))
        check("cbfs verify", ended("cbfs", "verify", mount.path, "bob", *fingerprint.split()))


def test_a_mount_imports_what_it_needs(here: World) -> None:
    alice, bob = here.account("alice"), here.user("bob")
    mount = ("mount.cbfs", alice.account, alice.mountpoint, "--no-tor")
    check("mount.cbfs", ended(*mount))
    (bob.mountpoint / "outbox" / "alice").mkdir()
    bob.write("alice", "first", "hello")
    folder = alice.wait_message("bob", "hello").parent.name
    place = here.place / "one"
    place.mkdir()
    try:
        told = ended("mount.cbfs", alice.account, place, "-o", f"only={folder}")
    finally:
        subprocess.run(["fusermount3", "-uz", place], check=True, timeout=WAIT)
    check("mount.cbfs -o only", told)


def test_servers_import_what_they_need(tmp_path: Path) -> None:
    check("cbfs-server", served("cbfs-server", "--data", tmp_path / "server"))
    check("cbfs-names", served("cbfs-names", "--data", tmp_path / "names", "--short", "3"))


@pytest.mark.parametrize("no_tor", [False, True])
def test_what_reaches_servers_is_there_before_memory_is_locked(*, no_tor: bool) -> None:
    """So that it is locked as well. Where Tor is off, it is not read in."""
    script = (
        "import sys\n"
        "from cbfs.network.access import read_in\n"
        "from cbfs.network.options import NetworkOptions\n"
        f"read_in(NetworkOptions(no_tor={no_tor}))\n"
        "print('cbfs.network.tor.tor' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(not no_tor)


def test_a_module_too_many_is_found() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import sqlite3.dbapi2"],
        capture_output=True,
        text=True,
        check=True,
        env=TELLING,
    ).stderr
    found = read_in(told)
    assert excess(found, Limit(len(found), frozenset())) == []
    assert excess(found, Limit(len(found) - 1, frozenset())) != []
    never = frozenset(("sqlite3", "sqlite"))
    assert excess(found, Limit(len(found), never)) == ["sqlite3", "sqlite3.dbapi2"]
