"""A directory whose disk, or whose store, is full: no rounds, and look-ups go on."""

import os
import signal
import time
from pathlib import Path

import pytest
import trio

from cbfs.names.directory import Directory
from cbfs.names.lookups import Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs_common.names.checks import Found
from cbfs_common.names.operations import OperationRefused, Refusal
from cbfs_common.names.policy import parse_policy
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_host import lmdb_environment
from cbfs_names.processes.single import Embedded
from cbfs_names.state.tables import StoreFull
from tests.server.test_server_disk import own_disk
from tests.support.disk import use_up
from tests.support.names_local import COSIGNER, KEYS, Local, commit, local
from tests.support.names_server import Kept
from tests.support.world import CHEAP_NAMES, Service

RANDOM = Random(os.urandom, kem_encapsulate)
PROFILE, OWNER = b"a profile " * 20, b"o" * 32


def client(data: Path) -> Directory:
    policy, kept = parse_policy((data / "policy").read_text()), Kept()
    return Directory(Lookups(LoopbackDialer(), policy, kept.load, kept.save, time.time, RANDOM))


def registered_until_stopped(data: Path) -> list[str]:
    """Names that the directory says it has, before the first that it has no room for."""
    names: list[str] = []

    async def go() -> None:
        while True:
            name = f"name-{time.monotonic_ns()}"
            await client(data).register(name, PROFILE, OWNER)
            names.append(name)

    with pytest.raises(OperationRefused) as caught:
        trio.run(go)
    assert caught.value.refusal is Refusal.STOPPED
    return names


def found(data: Path, names: list[str]) -> bool:
    async def go() -> bool:
        asked = client(data).lookups
        return all([isinstance(await asked.lookup(name), Found) for name in names])

    return trio.run(go)


@pytest.mark.mount
def test_on_a_full_disk_look_ups_go_on_and_rounds_come_back_by_themselves(tmp_path: Path) -> None:
    """Also when it is started, after it was killed or ended, while the disk is full."""
    log = tmp_path / "log"
    with own_disk("size=32m") as disk:
        data = disk / "names"
        service = Service("cbfs-names", data, (*CHEAP_NAMES, "--log", str(log)))
        try:
            trio.run(client(data).register, "alice", PROFILE, OWNER)
            other = use_up(disk)
            names = ["alice", *registered_until_stopped(data)]
            assert found(data, names)
            for how in (signal.SIGKILL, signal.SIGTERM):
                service.end(how)
                service.start()
                assert found(data, names)
                assert not registered_until_stopped(data)
            other.unlink()
            trio.run(client(data).register, "bobby", PROFILE, OWNER)
            assert found(data, [*names, "bobby"])
        finally:
            service.close()
    said = log.read_text()
    assert "no rounds are made, and look-ups are answered" in said
    assert "the disk is full: make room" in said
    assert "rounds are made again" in said
    assert "fault" not in said


def test_a_round_that_a_full_store_has_no_room_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in a round the room ends, what was told before is there, and the next start and the
    next round work as soon as there is room."""
    place = tmp_path / "store"
    with local(place) as directory:
        directory.take("alice")
    size = (place / "data.mdb").stat().st_size
    for room in range(0, 64 * 1024, 4_096):
        monkeypatch.setattr(lmdb_environment, "MAP_SIZE", size + room)
        with local(place) as directory:
            number = 0
            try:
                while number < 3:
                    directory.round(commit(f"name-{room}-{number}"))
                    number += 1
            except StoreFull:
                assert directory.entry("alice").name == "alice"
                Embedded(directory.store, KEYS.log, KEYS.verifier, COSIGNER).start(directory.now)
        monkeypatch.setattr(lmdb_environment, "MAP_SIZE", 1 << 30)
        with local(place) as directory:
            _goes_on(directory, f"after-{room}")


def _goes_on(directory: Local, name: str) -> None:
    assert directory.take(name).name == name
    assert directory.entry("alice").name == "alice"
