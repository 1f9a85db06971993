"""Operators of both servers: what they see and ask, over a socket that nobody else can use."""

import errno
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cbfs.network.link import ServerRefused, request
from cbfs_common.errors import CbfsError
from cbfs_common.version import VERSION
from cbfs_common.wire.requests import Deliver, GetLimits, Subscribe
from cbfs_host.admin import (
    ANSWER_MAX,
    CLIENTS_MAX,
    REQUEST_MAX,
    Asked,
    decode_answer,
    decode_asked,
    encode_answer,
    encode_refusal,
)
from cbfs_host.admin_command import ask
from cbfs_host.complaints import HostError
from tests.server.test_server_processes import PROGRAMS, STRANGER, running
from tests.support.children import exit_code
from tests.support.serving import TIMEOUT, envelope, link_to, new_account, running_server

REPOSITORY = Path(__file__).parents[2]


def command(program: str, place: Path, *words: str) -> list[str]:
    """The command line of an operator."""
    start = f"from {PROGRAMS[program]} import main; raise SystemExit(main())"
    return [sys.executable, "-c", start, "admin", str(place), *(words or ("status",))]


def admin(program: str, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What an operator's command does."""
    return subprocess.run(
        command(program, place, *words),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def status(place: Path) -> dict[str, object]:
    return dict(ask(place, Asked("status")))


def socket_of(data: Path) -> Path:
    return data / "admin" / "socket"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_figures_are_told_in_words_and_as_json(program: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(program, data):
        told = admin(program, data, "status", "--json")
        assert (told.returncode, told.stderr) == (0, "")
        figures = json.loads(told.stdout)
        assert figures["version"] == VERSION
        assert figures["connections"] == 0
        words = admin(program, socket_of(data), "status")
        assert words.stdout.splitlines()[0] == f"version: {VERSION}"
        assert len(words.stdout.splitlines()) == len(figures)


def connected_by_a_stranger(path: Path) -> int:
    """0, or the error that another user gets who connects. In a process of its own."""
    os.chdir("/")
    with socket.socket(socket.AF_UNIX) as client:
        os.setresuid(STRANGER, STRANGER, STRANGER)
        return client.connect_ex(str(path))


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_its_user_can_ask_a_server(program: str, tmp_path: Path) -> None:
    """Also where all that leads to the data directory is open to everybody."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    (data / "another").touch()  # so it stays as it is
    for each in tmp_path, *tmp_path.parents[:2]:
        each.chmod(0o755)
    with running(program, data):
        path = socket_of(data)
        assert stat.S_IMODE(data.stat().st_mode) == 0o755
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert exit_code(connected_by_a_stranger, path) == errno.EACCES
        path.parent.chmod(0o755)  # the mode of the socket alone keeps him out as well
        assert exit_code(connected_by_a_stranger, path) == errno.EACCES
    assert admin(program, data, "status").returncode == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_server_without_a_free_descriptor_goes_on(program: str, tmp_path: Path) -> None:
    """Strangers can bring it there, and then its operator comes to look."""
    data = tmp_path / "data"
    with running(program, data) as (process, _url), socket.socket(socket.AF_UNIX) as client:
        files = Path(f"/proc/{process.pid}/fd")
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        most = max(int(each.name) for each in files.iterdir()) + 1
        free = [number for number in range(most) if not (files / str(number)).exists()]
        assert not free
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, before[1]))
        client.connect(str(socket_of(data)))
        client.sendall(Asked("status").encode())
        client.shutdown(socket.SHUT_WR)
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert process.poll() is None
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        client.settimeout(TIMEOUT)
        assert client.recv(1)
        assert status(data)["version"] == VERSION


@pytest.mark.parametrize("program", PROGRAMS)
def test_where_no_server_runs_that_is_said_in_words(program: str, tmp_path: Path) -> None:
    found = admin(program, tmp_path, "status")
    assert found.returncode == 1
    assert found.stderr.splitlines()[0].endswith(f"error: no server runs at {tmp_path}")
    assert admin(program, tmp_path, "nonsense").returncode == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_killed_server_leaves_a_socket_that_the_next_one_takes_over(
    program: str, tmp_path: Path
) -> None:
    data = tmp_path / ("long" * 30) / "data"  # longer than the name of a socket may be
    with running(program, data) as (process, _url):
        process.kill()
        process.wait(TIMEOUT)
        assert socket_of(data).exists()
        assert admin(program, data, "status").returncode == 1
    with running(program, data) as (process, _url):
        assert admin(program, data, "status").returncode == 0
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        assert not socket_of(data).exists()


def talk(path: Path, data: bytes, files: list[int]) -> bytes:
    """What a server says to these bytes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        with suppress(BrokenPipeError):  # when it has heard enough
            if files:
                socket.send_fds(client, [data[:1] or b"x"], files)
                data = data[1:]
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):
            while part := client.recv(4_096):
                answer += part
        return answer


NONSENSE = [
    b"",
    b"\xc0",
    b"\x90",
    b"\x91\x01",
    b"\x91\xc0",
    b"\x91\xa6status\x00",
    b"\x92\xa6status\xa1x",
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 4_096,
    b"\x91\xa6statu",
    b"\x91\xa7nothing",
    os.urandom(100),
    os.urandom(REQUEST_MAX),
    os.urandom(REQUEST_MAX + 1),
    b"\x00" * (1 << 20),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_nonsense_is_refused_and_leaves_nothing(program: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(program, data) as (process, _url):
        status(data)
        descriptors = Path(f"/proc/{process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for bytes_ in NONSENSE:
            for files in [], [0], [0, 0]:
                answer = talk(socket_of(data), bytes_, files)
                if answer:
                    with pytest.raises(HostError):
                        decode_answer(answer)
        silent = [socket.socket(socket.AF_UNIX) for _ in range(CLIENTS_MAX - 1)]
        for each in silent:
            each.connect(str(socket_of(data)))
        status(data)
        for each in silent:
            each.close()
        for _ in range(int(TIMEOUT * 100)):
            if len(list(descriptors.iterdir())) <= before:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("descriptors are left open")


def test_what_a_message_server_does_is_counted(tmp_path: Path) -> None:
    trio.run(_counted, tmp_path)


async def _counted(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home, link_to(server) as stranger:
            await request(home, Subscribe())
            await request(stranger, Deliver(user, envelope()))
            with pytest.raises(ServerRefused):
                await request(stranger, Deliver(os.urandom(32), envelope()))
            await request(stranger, GetLimits())
            found = status(server.data)
            assert (found["accounts"], found["envelopes"]) == (1, 1)
            assert (found["connections"], found["subscriptions"]) == (2, 1)
            used, free = found["used"], found["free"]
            assert isinstance(used, int)
            assert isinstance(free, int)
            assert used > 16_384
            assert free > used
            counts = {"CreateAccount": 1, "Deliver": 2, "GetLimits": 1, "Subscribe": 1}
            assert dict(found["requests"]) == counts  # type: ignore[call-overload]
            assert found["refusals"] == (("UNKNOWN_USER", 1),)
            assert dict(found["connections_total"])["accepted"] == 3  # type: ignore[call-overload]


VALUES = st.none() | st.integers(-(2**63), 2**63) | st.text() | st.booleans()
COUNTS = st.lists(st.tuples(st.text(), st.integers(0, 2**63))).map(tuple)


@given(st.lists(st.tuples(st.text(), VALUES | COUNTS), max_size=20).map(tuple))
def test_an_answer_comes_back_as_it_was(lines: tuple[tuple[str, object], ...]) -> None:
    assert decode_answer(encode_answer(lines)) == lines  # type: ignore[arg-type]


@given(st.text(), st.text())
def test_a_refusal_comes_back_with_its_hint(text: str, hint: str) -> None:
    with pytest.raises(HostError) as found:
        decode_answer(encode_refusal(CbfsError(text, hint)))
    assert (str(found.value), found.value.hint) == (text, hint)


@given(st.text(max_size=1_024), st.lists(st.text(max_size=200), max_size=8).map(tuple))
def test_a_request_comes_back_as_it_was(verb: str, words: tuple[str, ...]) -> None:
    asked = Asked(verb, words)
    if len(asked.encode()) <= REQUEST_MAX:
        assert decode_asked(asked.encode()) == asked


def test_the_programs_say_which_version_they_are() -> None:
    for name in "cbfs-server", "cbfs-names", "cbfs", "mount.cbfs":
        script = Path(sys.executable).with_name(name)
        told = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
        assert (told.returncode, told.stdout, told.stderr) == (0, f"{name} {VERSION}\n", "")
    said = "version = attr: cbfs_common.version.VERSION\n"
    assert said in (REPOSITORY / "setup.cfg").read_text()


def test_an_answer_without_an_end_is_not_waited_for(tmp_path: Path) -> None:
    """Of whatever listens at the path that an operator has given."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        asking = subprocess.Popen(command("cbfs_server", path), stderr=subprocess.PIPE, text=True)
        try:
            client, _ = listener.accept()
            with client, suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    client.sendall(b"\x91" * (ANSWER_MAX // 4))
            _, said = asking.communicate(timeout=TIMEOUT)
            assert (asking.returncode, len(said.splitlines())) == (1, 2)
        finally:
            asking.kill()
            asking.wait()
