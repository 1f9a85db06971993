"""Both servers as processes: signals, a log that nobody reads, whose data it is, and where they
listen."""

import errno
import fcntl
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cbfs.network.link import request
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.faults import trace_of
from cbfs_common.names.policy import SCHEME
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address, Profile, decode_profile, parse_address
from cbfs_common.wire.requests import GetLimits
from cbfs_host.listening import Place, listen, parse_place
from cbfs_host.log_format import TextFormat
from cbfs_host.logs import ALIKE_MAX, ALIKE_PERIOD, KINDS_MAX, ServerLog
from tests.support.serving import TIMEOUT, RawClient, link_to, running_server

PROGRAMS = {"cbfs_server": "cbfs_server.cli", "cbfs_names": "cbfs_names.commands.main"}
"""Packages, and where the program of each is."""
SCHEMES = {"cbfs_server": "cbfs", "cbfs_names": SCHEME}
STRANGER = 12_345


def command(program: str, data: Path, *options: str) -> list[str]:
    start = f"from {PROGRAMS[program]} import main; raise SystemExit(main())"
    listen = () if "--listen" in options else ("--listen", "127.0.0.1:0")
    return [sys.executable, "-c", start, "--data", str(data), *listen, *options]


@contextmanager
def running(program: str, data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and the address that it prints."""
    process = subprocess.Popen(
        command(program, data, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def failure(program: str, data: Path, *options: str) -> tuple[int, list[str]]:
    """Exit status and what it said."""
    done = subprocess.run(
        command(program, data, *options),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def said_in_words(lines: list[str]) -> bool:
    kinds = [line.split(": ")[1] for line in lines]
    return kinds == ["error", "hint"]


def connects(program: str, url: str) -> None:
    """The server shakes hands, so it lives."""
    client = RawClient(parse_address(url, SCHEMES[program]))
    client.shake_hands()
    client.socket.close()


def is_broken(program: str, url: str) -> None:
    """Somebody speaks another protocol, which a server logs."""
    client = RawClient(parse_address(url, SCHEMES[program]))
    client.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" * 200)
    client.closed_by_server()
    client.socket.close()


def wait_for(path: Path) -> None:
    for _ in range(int(TIMEOUT * 100)):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(path)


@pytest.mark.parametrize("program", PROGRAMS)
def test_signals_that_mean_nothing_end_no_server(program: str, tmp_path: Path) -> None:
    with running(program, tmp_path / "data") as (process, url):
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO"):
            process.send_signal(getattr(signal, name))
            connects(program, url)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_log_file_is_opened_anew_at_sighup(program: str, tmp_path: Path) -> None:
    log, moved = tmp_path / "log", tmp_path / "log.1"
    with running(program, tmp_path / "data", "--log", str(log), "--verbose") as (process, url):
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        log.rename(moved)
        process.send_signal(signal.SIGHUP)
        wait_for(log)
        is_broken(program, url)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        assert "connection" in log.read_text()
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_log_that_nobody_reads_stops_no_server(program: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    os.write(writing, b"x" * 4_096)
    process = subprocess.Popen(
        command(program, tmp_path / "data", "--verbose"),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
    )
    try:
        assert process.stdout is not None
        with process.stdout as out:
            url = out.readline().strip()
        for _ in range(20):
            is_broken(program, url)
        connects(program, url)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def test_lines_without_room_are_counted() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    os.write(writing, b"x" * 4_095 + b"\n")
    code = (
        "import logging\n"
        "from cbfs_host.logs import LINES_MAX, ServerLog, log_to\n"
        "with ServerLog(None) as handler:\n"
        "    log_to(handler, 'test', verbose=True)\n"
        "    for number in range(LINES_MAX + 100): logging.info('line %d', number)\n"
        "    print('logged', flush=True)\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=writing, text=True
    )
    os.close(writing)
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    with os.fdopen(reading) as pipe:
        lines = [pipe.readline() for _ in range(3)]
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        lines += pipe.readlines()
    process.communicate()
    said = [line for line in lines if "dropped" in line]
    kept = [line for line in lines if " test info: line " in line]
    assert sum(int(line.split()[0]) for line in said) + len(kept) == 1_024 + 100
    assert said


@pytest.mark.parametrize("program", PROGRAMS)
def test_strangers_who_break_connections_do_not_fill_the_log(program: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(program, tmp_path / "data", "--log", str(log)) as (process, url):
        for _ in range(2 * ALIKE_MAX):
            is_broken(program, url)
        connects(program, url)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    lines = log.read_text().splitlines()
    assert ALIKE_MAX <= len(lines) < ALIKE_MAX + ALIKE_MAX // 2
    assert any("more like it are left out" in line for line in lines)


def test_lines_alike_are_bounded_and_counted_and_others_are_logged(tmp_path: Path) -> None:
    now = 1_000.0
    handler = ServerLog(tmp_path / "log", lambda: now)
    handler.setFormatter(TextFormat("test"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for number in range(50_000):
        if number % 10 == 0:
            now += 1
        logger.warning("connection %d", number)
    logger.error("something else")
    logger.info("asked for")
    now += ALIKE_PERIOD
    logger.warning("connection %d", 50_000)
    for number in range(10_000):
        logger.warning(f"made up {number}")
    handler.close()
    said = (tmp_path / "log").read_text().splitlines()
    lines = [line.partition(": ")[2] for line in said]
    alike = [line for line in lines if line.startswith("connection")]
    passed = 5_000 / ALIKE_PERIOD
    assert ALIKE_MAX + passed - 2 <= len(alike) <= ALIKE_MAX + passed + 2
    left_out = [int(line.split("(")[1].split()[0]) for line in alike if "before" in line]
    assert sum(left_out) + len(alike) == 50_001
    assert {"something else", "asked for"} <= set(lines)
    made_up = [line for line in lines if line.startswith("made up")]
    assert len(made_up) <= KINDS_MAX + ALIKE_MAX


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_server_without_descriptors_writes_into_none_of_its_files(
    program: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    closed = """
import os, subprocess, sys
os.closerange(0, 3)
os.execv(sys.argv[1], sys.argv[1:])
"""
    process = subprocess.Popen([sys.executable, "-c", closed, *command(program, data)])
    try:
        wait_for(data / "store" / "data.mdb")
        held = {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in (0, 1, 2)}
        assert held == {"/dev/null"}
        process.terminate()
        assert process.wait(TIMEOUT) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_before_it_serves_is_one_line(program: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    key = data / ("key" if program == "cbfs_server" else "transport.key")
    os.mkfifo(key)  # so that it waits for a writer
    process = subprocess.Popen(command(program, data), stderr=subprocess.PIPE, text=True)
    wait_for(data / "lock")
    while "S" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]:
        time.sleep(0.01)  # it sleeps in the opening of the key
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    name = "cbfs" if program == "cbfs_server" else "cbfs-names"
    assert said.splitlines() == [f"{name}: interrupted"]


# whose data it is


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_data_of_somebody_else_is_refused(program: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, STRANGER, STRANGER)
    status, said = failure(program, data)
    assert (status, said_in_words(said)) == (1, True)
    assert f"belongs to user {STRANGER}" in said[0]
    assert not list(data.iterdir())


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_directory_that_others_may_write_to_is_refused_or_closed(
    program: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    with running(program, data):
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
    data.chmod(0o770)
    status, said = failure(program, data)
    assert (status, said_in_words(said)) == (1, True)
    assert f"others may write to {data}" in said[0]


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_opened_through_the_link_of_somebody_else(program: str, tmp_path: Path) -> None:
    home, precious = tmp_path / "home", tmp_path / "precious"
    for made in home, precious:
        made.mkdir(mode=0o755)
    (precious / "log").write_text("precious")
    (home / "data").symlink_to(precious)
    os.chown(home / "data", STRANGER, STRANGER, follow_symlinks=False)
    status, said = failure(program, home / "data")
    assert (status, said_in_words(said)) == (1, True)
    assert "a symbolic link of user" in said[0]
    status, said = failure(program, tmp_path / "data", "--log", str(home / "data" / "log"))
    assert (status, said_in_words(said)) == (1, True)
    os.chown(home, STRANGER, STRANGER)  # who can put a link there at any time
    status, said = failure(program, home / "other")
    assert (status, said_in_words(said)) == (1, True)
    assert "a directory of user" in said[0]
    assert (precious / "log").read_text() == "precious"
    assert len(list(precious.iterdir())) == 1


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with running("cbfs_server", tmp_path / "link"):
        assert (tmp_path / "real" / "key").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_disk_refuses_at_the_start_is_said_in_words(program: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for data in tmp_path / "file", tmp_path / "file" / "data", Path("/proc/data"):
        status, said = failure(program, data)
        assert (status, said_in_words(said)) == (1, True)
    status, said = failure(program, tmp_path / "data", "--log", "/proc/log")
    assert (status, said_in_words(said)) == (1, True)


@pytest.mark.mount
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_disk_at_the_start_is_said_in_words(program: str, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "t", place], check=True)
    try:
        (place / "all").write_bytes(bytes(4_096))
        status, said = failure(program, place)
    finally:
        subprocess.run(["umount", place], check=True)
    assert (status, said_in_words(said)) == (1, True)
    assert "No space left" in said[0]
    assert "full" in said[1]


# where it listens


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("where", ["[::1]:0", "::1"])
def test_it_listens_on_ipv6(program: str, where: str, tmp_path: Path) -> None:
    options = ("--listen", where)
    with running(program, tmp_path / "data", *options) as (_process, url):
        assert parse_address(url, SCHEMES[program]).host == "::1"
        assert "@[::1]:" in url
        connects(program, url)


def test_clients_reach_a_server_on_ipv6(tmp_path: Path) -> None:
    async def script() -> None:
        with trio.fail_after(TIMEOUT):
            async with link_to(server) as link:
                await request(link, GetLimits())

    with running_server(tmp_path / "data", "--listen", "[::1]:0") as server:
        trio.run(script)


def test_an_address_has_one_text() -> None:
    key = dh_public(b"k" * 32)
    for host_ in "::1", "2001:db8::2", "example.org", "127.0.0.1":
        address = Address(key, host_, 1984)
        assert parse_address(address.url()) == address
        profile = Profile(key, key, key, key, address)
        assert decode_profile(profile.encode()) == profile
    good = Address(key, "::1", 1984).url()
    for wrong in (
        "[0:0:0:0:0:0:0:1]",
        "::1",
        "[::1%1]",
        "[::ffff:7f00:1]",
        "[127.0.0.1]",
        "[]",
        "[:]",
    ):
        with pytest.raises(DecodeError):
            parse_address(good.replace("[::1]", wrong))
    for wrong in "::FFFF", "1::0", "fe80::1%eth0", ":", "::ffff:127.0.0.1":
        with pytest.raises(DecodeError):
            Address(key, wrong, 1984)


def test_places_to_listen() -> None:
    assert parse_place("127.0.0.1:80", 1) == Place("127.0.0.1", 80)
    assert parse_place("localhost:0", 1) == Place("localhost", 0)
    assert parse_place("[0:0::1]:80", 1) == Place("::1", 80)
    assert parse_place("[::1]", 7) == parse_place("::1", 7) == Place("::1", 7)
    assert str(Place("::1", 7)) == "[::1]:7"
    for wrong in "", ":", ":80", "a", "a:", "a:b", "[::1", "::1]:1", "[a]:1", "a:1:2", "fe80::1%lo":
        with pytest.raises(DecodeError):
            parse_place(wrong, 1)
    for wrong in "a:65536", "a:99999", "[::1]:65536":
        with pytest.raises(DecodeError, match="not a port"):
            parse_place(wrong, 1)
    assert Place("::", 1).everywhere
    assert Place("0.0.0.0", 1).everywhere
    assert not Place("::1", 1).everywhere


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.EADDRINUSE, "another program listens there"),
        (errno.EADDRNOTAVAIL, "no such address"),
        (errno.EAFNOSUPPORT, "no IPv6"),
    ],
)
def test_a_hint_names_the_cause(number: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, "words (while attempting to bind on address)")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(CbfsError, match=os.strerror(number) + "$") as caught:
        listen(Place("127.0.0.1", 80))
    assert hint in caught.value.hint


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_address_of_another_machine_is_named(program: str, tmp_path: Path) -> None:
    for where, cause in ("192.0.2.1:0", "no such address"), ("no.such.host.invalid:0", "such host"):
        status, said = failure(program, tmp_path / "data", "--listen", where)
        assert (status, said_in_words(said)) == (1, True)
        assert cause in "".join(said)


# what a log says of a fault


def test_a_trace_says_where_and_nothing_of_what() -> None:
    secret = "a-secret-name"

    def inner() -> None:
        raise KeyError(secret)

    try:
        try:
            inner()
        except KeyError as error:
            raise ExceptionGroup(secret, [ValueError(secret), error]) from error
    except ExceptionGroup as error:
        trace = trace_of(error)
    assert secret not in trace
    for said in "ExceptionGroup", "ValueError", "KeyError", "test_server_processes.py:", " inner":
        assert said in trace


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_modules_are_read_in_is_one_line(program: str) -> None:
    """A program whose main module is being imported, in a process of its own."""
    code = (
        f"import sys, {program}.entry as entry\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == '{PROGRAMS[program]}': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "raise SystemExit(entry.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    said = f"{program.replace('_', '-')}: interrupted\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("letters", [b"j\xc3\xb6rg, a 'b'", b"j\xf6rg", b"a\nb", b"%s{x}"])
def test_a_data_directory_may_have_any_name(program: str, letters: bytes, tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(letters)
    with running(program, data) as (_process, url):
        connects(program, url)
    with running(program, data) as (_process, again):
        assert url.rpartition(":")[0] == again.rpartition(":")[0]
    data.chmod(0o777)
    status, said = failure(program, data)
    assert status == 1
    assert said[-1].split(": ")[1] == "hint"


def test_a_server_whose_key_has_gone_takes_no_other_address(tmp_path: Path) -> None:
    """Nor does it begin in an account, or in a directory of names, that somebody has mistyped."""
    data = tmp_path / "server"
    with running("cbfs_server", data) as (_process, address):
        assert address
    (data / "key").rename(tmp_path / "gone")
    status, said = failure("cbfs_server", data)
    assert status == 1
    assert said_in_words(said)
    assert "missing" in said[0]
    assert not (data / "key").exists()
    (tmp_path / "gone").rename(data / "key")
    with running("cbfs_server", data) as (_process, again):
        assert again.split("@")[0] == address.split("@")[0]


def test_a_directory_whose_store_has_gone_begins_no_second_history(tmp_path: Path) -> None:
    data = tmp_path / "names"
    with running("cbfs_names", data) as (_process, address):
        assert address
    (data / "store").rename(tmp_path / "gone")
    status, said = failure("cbfs_names", data)
    assert status == 1
    assert said_in_words(said)
    assert "missing" in said[0]
    assert not (data / "store").exists()
    (tmp_path / "gone").rename(data / "store")
    with running("cbfs_names", data) as (_process, again):
        assert again.split("@")[0] == address.split("@")[0]
