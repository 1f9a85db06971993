"""Stores that earlier versions have made: the newest opens each, and all that was in it is there.

README.rst beside this file says what is in them.
"""

import fcntl
import json
import os
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.account.passphrase import Guard, unlocking
from cbfs.commands.export import restore_export
from cbfs.receiving.lost_state import make_listings
from cbfs.storage.root_key import WrongPassphrase
from tests.golden.make import EXPORTED, PASSPHRASE, shown, told
from tests.server.test_admin import admin, status
from tests.server.test_server_processes import failure, running, said_in_words
from tests.support.serving import running_server
from tests.support.world import ENVIRONMENT, WAIT, program, wait_for

GOLDEN = Path(__file__).parent
VERSIONS = sorted(path.parent.name for path in GOLDEN.glob("*/stores.tar.xz"))
SIZE_MAX = 2 << 20
"""Bytes of the stores of one version."""


@pytest.fixture(params=VERSIONS)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The stores of a version, unpacked."""
    place = tmp_path / "stores"
    with tarfile.open(GOLDEN / request.param / "stores.tar.xz") as file:
        file.extractall(place, filter="data")
    for each in place.iterdir():
        if each.is_dir():
            each.chmod(0o700)
    (place / "seen.json").write_bytes((GOLDEN / request.param / "seen.json").read_bytes())
    yield place


def seen(stores: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stores / "seen.json").read_text())
    return found


def before_ml_kem(stores: Path) -> bool:
    """Whether people had no keys of ML-KEM yet."""
    return "told" in seen(stores)


def check_told(mount: Path, stores: Path, name: str, *, read: bool = False) -> None:
    """What else was shown to somebody, of stores that have it; ``read``: it has all been read."""
    if before_ml_kem(stores):
        said = json.loads(json.dumps(told(mount)))
        unread = said.pop("unread")
        found = seen(stores)["told"][name]
        expected = found.pop("unread")
        assert unread == ([] if read else expected)
        assert said == found


@contextmanager
def mounted(account: Path, *options: str, passphrase: bytes = b"") -> Iterator[Path]:
    """A mount of an account, of the newest code, whose servers do not run."""
    mount = account.with_name(f"{account.name}-mount")
    mount.mkdir(exist_ok=True)
    read, write = os.pipe()
    os.write(write, passphrase + b"\n")
    os.close(write)
    words = [*options, f"passphrase_fd={read}"] if passphrase else list(options)
    try:
        done = subprocess.run(
            program("mount.cbfs", account, mount, "--no-tor", "-o", ",".join(words)),
            pass_fds=(read,),
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
            env=ENVIRONMENT,
        )
    finally:
        os.close(read)
    assert done.returncode == 0, done.stderr
    try:
        yield mount
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=True, timeout=WAIT)
        wait_for(lambda: closed(account), "the account to be closed")


def closed(account: Path) -> bool:
    with (account / "lock").open("r+") as lock, suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_an_account_of_before_shows_all_its_history(stores: Path) -> None:
    """That of bob, with the stranger who waits; and again, when it is of the newest format."""
    for read in (False, True):
        with mounted(stores / "bob-account", "grace=1") as mount:
            check_told(mount, stores, "bob", read=read)
            assert shown(mount) == seen(stores)["bob"]
            assert sorted(path.name for path in (mount / "contacts").iterdir()) == [
                "alice",
                "carol",
            ]
            said = (mount / "requests" / "dave" / "message").read_text()
            assert "    you do not know me\n" in said


def test_an_account_of_before_has_its_people_and_what_waits(stores: Path) -> None:
    """That of alice, under a passphrase: whom she calls otherwise and has verified, for how long
    she keeps what, and what she has written while no server answered."""
    with mounted(stores / "alice-account", "grace=1", passphrase=PASSPHRASE) as mount:
        found = seen(stores)
        check_told(mount, stores, "alice")
        assert shown(mount) == found["alice"]
        assert sorted(path.name for path in (mount / "contacts").iterdir()) == found["contacts"]
        bobby = mount / "contacts" / "bobby"
        if before_ml_kem(stores):  # it was of other keys: these are to be compared
            assert not (bobby / "verified").exists()
        else:
            assert (bobby / "fingerprint").read_text() == found["fingerprint"]
            assert (bobby / "verified").exists()
        assert not (mount / "contacts" / "carol" / "verified").exists()
        (talk,) = mount.glob("outbox/*-alice-carol")
        lifetime = tomllib.loads((talk / "metadata.toml").read_text())["lifetime"]
        assert lifetime == "366d"
        (late,) = mount.glob("conversations/*-bobby-carol/*-alice-late.txt")
        assert b"queued" in os.getxattr(late, "user.cbfs.state")


@pytest.mark.parametrize("stores", ["70e89ed"], indirect=True)
def test_an_account_of_before_ml_kem_says_that_nothing_is_sent(stores: Path) -> None:
    with mounted(stores / "bob-account", "grace=1") as mount:
        status_ = (mount / "status").read_text()
        assert "bob: not connected" in status_
        assert "THIS ACCOUNT IS OUTLIVED" in status_
        assert "no connection" not in status_
        assert "cbfs init" in (mount / "WARNING").read_text()
        (talk,) = mount.glob("outbox/*-carol")
        (talk / "more").write_text("is this sent?\n")
        wait_for(lambda: "earlier cbfs" in held(mount, "more"), "it to say why it waits")
        assert (talk / "more").read_text() == "is this sent?\n"


def held(mount: Path, name: str) -> str:
    """Why a file waits in the outbox."""
    lines = (mount / "status").read_text().splitlines()
    return next((line for line in lines if f"/{name}: " in line), "")


def test_a_wrong_passphrase_leaves_an_account_of_before(stores: Path) -> None:
    account = stores / "alice-account"
    before = (account / "root.key").read_bytes(), (account / "store" / "data.mdb").read_bytes()
    with (
        pytest.raises(WrongPassphrase),
        opened_store(account, SYSTEM_RANDOM, unlocking(lambda: b"another")),
    ):
        pass
    after = (account / "root.key").read_bytes(), (account / "store" / "data.mdb").read_bytes()
    assert after == before


def test_an_export_of_before_is_restored_with_all_its_history(stores: Path) -> None:
    account = stores / "restored"
    with opened_store(account, SYSTEM_RANDOM, create=Guard) as store:
        restore_export(store, stores / "export", EXPORTED)
    with opened_store(account, SYSTEM_RANDOM) as store:
        make_listings(store)
    with mounted(account, "grace=1") as mount:
        assert shown(mount) == seen(stores)["bob"]


def test_servers_of_before_go_on_with_their_stores(stores: Path) -> None:
    for moved in ("--store-is-current",), ():  # to another disk, with which the directory is told
        with running_server(stores / "server") as server:
            assert status(stores / "server")["accounts"] == seen(stores).get("accounts", 4)
            assert admin("cbfs_server", stores / "server", "check").returncode == 0
            assert server.terminate() == 0
        if before_ml_kem(stores):
            continue
        with running("cbfs_names", stores / "names", *moved) as (process, url):
            assert url
            assert status(stores / "names")["names"] == 4
            assert admin("cbfs_names", stores / "names", "check").returncode == 0
            process.terminate()
            assert process.wait(60) == 0


@pytest.mark.parametrize("stores", ["70e89ed"], indirect=True)
def test_a_server_of_before_ml_kem_keeps_its_key_and_gets_another_beside_it(stores: Path) -> None:
    path = stores / "server" / "key"
    before = path.read_bytes()
    with running_server(stores / "server") as server:
        address = server.address
        assert server.terminate() == 0
    after = path.read_bytes()
    assert (after[:32], len(after)) == (before, 96)
    with running_server(stores / "server") as server:
        assert server.address.key == address.key
        assert server.terminate() == 0
    assert path.read_bytes() == after


@pytest.mark.parametrize("stores", ["70e89ed"], indirect=True)
def test_a_name_directory_that_nobody_can_ask_is_refused_in_words(stores: Path) -> None:
    files = [path for path in (stores / "names").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    code, said = failure("cbfs_names", stores / "names")
    assert (code, said_in_words(said)) == (1, True)
    assert "of an earlier cbfs" in said[0]
    assert "begin a new one" in said[1]
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.parametrize("version", VERSIONS)
def test_stores_of_before_are_small_and_have_their_maker(version: str) -> None:
    file = GOLDEN / version / "stores.tar.xz"
    assert file.stat().st_size <= SIZE_MAX
    rows = [line.split() for line in (GOLDEN / "README.rst").read_text().splitlines()]
    (commit,) = (row[1] for row in rows if row[:1] == [version])
    shallow = ["git", "rev-parse", "--is-shallow-repository"]
    found = subprocess.run(shallow, cwd=GOLDEN, capture_output=True, text=True, check=False)
    if found.stdout.strip() == "false":
        subprocess.run(["git", "cat-file", "-e", commit], cwd=GOLDEN, check=True)
