"""What servers and systemd tell each other, on real sockets."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs_common.profile import parse_address
from cbfs_host.systemd import Manager, passed_sockets
from cbfs_server.lmdb_store.store import LmdbStore
from tests.server.test_server_processes import PROGRAMS, SCHEMES, command, connects
from tests.support.postgres import free_ports
from tests.support.serving import TIMEOUT, RawClient

ROOT = Path(__file__).parents[2]
UNITS = [*(ROOT / "server").glob("*.service"), *(ROOT / "systemd").glob("cbfs-names-*.service")]


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the manager hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(TIMEOUT)
        yield sock


def next_of(heard: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in heard.recv(4_096).decode().split("\n"))


def after_life(heard: socket.socket) -> dict[str, str]:
    """The next that is no sign of life."""
    while (found := next_of(heard)) == {"WATCHDOG": "1"}:
        pass
    return found


@contextmanager
def started(
    arguments: list[str], environment: dict[str, str], passed: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A server as systemd starts one: with ``passed`` descriptors from 3 on."""
    code = (
        "import fcntl, os, sys\n"
        f"held = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in {passed}]\n"
        "for number, each in enumerate(held): os.dup2(each, 3 + number)\n"
        f"if held: os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{len(passed)}')\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        pass_fds=passed,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("program", PROGRAMS)
def test_systemd_is_told_how_a_server_is(
    program: str, tmp_path: Path, heard: socket.socket
) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    with started(command(program, tmp_path / "data"), told) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert next_of(heard) == {"READY": "1", "STATUS": url}
        for _ in range(3):
            assert next_of(heard) == {"WATCHDOG": "1"}
        process.send_signal(signal.SIGHUP)
        assert set(after_life(heard)) == {"RELOADING", "MONOTONIC_USEC"}
        assert after_life(heard) == {"READY": "1"}
        process.terminate()
        assert after_life(heard) == {"STOPPING": "1"}
        assert process.wait(TIMEOUT) == 0


HANGS = """
import sys, threading
{patch}
from {module} import main
raise SystemExit(main(sys.argv[1:]))
"""
PATCHES = {
    "cbfs_server": (
        "import cbfs_server.lmdb_store.store as s\n"
        "s.LmdbStore._transact = lambda *a: threading.Event().wait()"
    ),
    "cbfs_names": (
        "import cbfs_names.state.store as s, cbfs_names.wire.sockets as w\n"
        "from contextlib import contextmanager\n"
        "before = s.StateStore.write\n"
        "serve = w.serve\n"
        "def hang(self): threading.Event().wait()\n"
        "async def patched(*a):\n"
        "    s.StateStore.write = hang\n"
        "    await serve(*a)\n"
        "w.serve = patched\n"
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_server_whose_store_hangs_gives_no_sign_of_life(
    program: str, tmp_path: Path, heard: socket.socket
) -> None:
    """It would end by the watchdog, as systemd then sends SIGABRT."""
    code = HANGS.format(patch=PATCHES[program], module=PROGRAMS[program])
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000"}
    arguments = [sys.executable, "-c", code, "--data", str(tmp_path / "data")]
    with started([*arguments, "--listen", "127.0.0.1:0"], told) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert next_of(heard) == {"READY": "1", "STATUS": url}
        connects(program, url)
        connects(program, url)
        signs = 0
        heard.setblocking(False)
        try:
            while True:
                heard.recv(4_096)
                signs += 1
        except BlockingIOError:
            pass
        assert signs <= 1  # names: one may come before the store hangs
        process.send_signal(signal.SIGABRT)
        assert process.wait(TIMEOUT) == -signal.SIGABRT


@pytest.mark.parametrize("program", PROGRAMS)
def test_sockets_are_taken_from_systemd(program: str, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.socket(socket.AF_UNIX) as other,
    ):
        other.bind(str(tmp_path / "socket"))
        other.listen()
        port = one.getsockname()[1]
        arguments = [each for each in command(program, tmp_path / "data") if each != "127.0.0.1:0"]
        arguments.remove("--listen")
        with started(arguments, {}, (other.fileno(), one.fileno())) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            address = parse_address(url, SCHEMES[program])
            assert (address.host, address.port) == ("127.0.0.1", port)
            connects(program, url)
            client = RawClient(address)
            client.socket.close()
            client.socket = socket.socket(socket.AF_UNIX)
            client.socket.connect(str(tmp_path / "socket"))
            client.shake_hands()
            client.socket.close()


@pytest.mark.parametrize("program", PROGRAMS)
def test_several_addresses_are_listened_on(program: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options = ("--listen", "127.0.0.1:0", "--listen", f"[::1]:{port}")
    with started(command(program, tmp_path / "data", *options), {}) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert parse_address(url, SCHEMES[program]).host == "127.0.0.1"
        connects(program, url)
        host, _, _ = url.rpartition("@")
        connects(program, f"{host}@[::1]:{port}")


def test_what_is_passed_and_cannot_be_accepted_on_is_refused() -> None:
    script = (
        "import os, socket, sys\n"
        "from cbfs_host.systemd import passed_sockets\n"
        "kind = sys.argv[1]\n"
        "made = {'file': lambda: open(os.devnull), 'datagram': lambda: socket.socket(type=2),\n"
        "    'connected': lambda: socket.socketpair()[0], 'none': lambda: None}[kind]()\n"
        "if made is not None: os.dup2(made.fileno(), 3)\n"
        "else: os.closerange(3, 10)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "try: passed_sockets()\n"
        "except Exception as error: print(type(error).__name__, error.hint)\n"
    )
    for kind in ("file", "datagram", "connected", "none"):
        found = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, kind],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout.startswith("HostError give the socket unit"), (kind, found)


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    told = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    assert passed_sockets(told) == []
    assert told == {}
    told = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Manager(told).patience == 0
    assert told == {}
    for wrong in "", "x", "-1":
        assert passed_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": wrong}) == []
        assert Manager({"WATCHDOG_USEC": wrong}).patience == 0


def test_a_manager_that_is_not_there_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Manager({}).ready("here")
    assert caplog.text == ""
    Manager({"NOTIFY_SOCKET": "/nowhere"}).ready("here")
    assert "systemd is not told" in caplog.text


def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0cbfs-test-{os.getpid()}")
        sock.settimeout(TIMEOUT)
        Manager({"NOTIFY_SOCKET": f"@cbfs-test-{os.getpid()}"}).ready("here")
        assert next_of(sock) == {"READY": "1", "STATUS": "here"}


def test_life_is_shown_only_after_progress(heard: socket.socket, tmp_path: Path) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"}
    made = 0

    async def progress() -> None:
        nonlocal made
        made += 1
        if made > 2:
            await trio.sleep_forever()

    async def script() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Manager(told).watch, progress)
            while made <= 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(script)
    heard.setblocking(False)
    assert [next_of(heard), next_of(heard)] == [{"WATCHDOG": "1"}] * 2
    with pytest.raises(BlockingIOError):
        heard.recv(1)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_closed_and_tells_systemd(unit: Path) -> None:
    text = unit.read_text()
    for line in ("Type=notify", "WatchdogSec=120", "ExecReload=/bin/kill -HUP $MAINPID"):
        assert line in text.splitlines()
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_begins_again_for_as_long_as_it_fails(unit: Path) -> None:
    """Say, while its database has no primary. Five starts within ten seconds are the last ones,
    where nothing else is said."""
    lines = unit.read_text().splitlines()
    assert "Restart=on-failure" in lines
    (pause,) = (line.partition("=")[2] for line in lines if line.startswith("RestartSec="))
    assert 5 * int(pause) > 10


def test_who_waits_for_progress_does_not_wait_for_a_store_that_is_compacted(tmp_path: Path) -> None:
    """Nobody commits here, as while that goes on, which begins after the change was put."""

    async def main(store: LmdbStore) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.progress)
            await trio.testing.wait_all_tasks_blocked()
            store._compacting = True
            with trio.move_on_after(10):
                await trio.sleep_forever()
            assert not nursery.child_tasks

    store = LmdbStore(tmp_path / "store")
    trio.run(main, store, clock=trio.testing.MockClock(autojump_threshold=0))
    store.close()
