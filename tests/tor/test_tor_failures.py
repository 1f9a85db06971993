"""What Tor does wrong, and what the client says and does then: over real tor processes."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import cbfs.network.tor.session
import cbfs.network.tor.tor
from cbfs.network.dial import DialError
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.control import ControlRefused, owner_of_listener
from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs.network.tor.session import LiveTor, find_running
from cbfs_common.errors import CbfsError
from tests.support.tornet import (
    HASHED,
    PATIENCE,
    SystemTor,
    dial,
    echo_server,
    lone_tor,
    own_options,
    talk,
    tor_of,
)

pytestmark = pytest.mark.tor


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not let a test wait for a minute where a user would."""
    monkeypatch.setattr(cbfs.network.tor.tor, "READY_TIMEOUT", 0.2)
    monkeypatch.setattr(cbfs.network.tor.tor, "BACKOFF_FIRST", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, who does not answer is given up in a second. Not for a tor that is
    to answer: on a busy machine that takes it longer."""
    return lambda: monkeypatch.setattr(cbfs.network.tor.session, "CALL_TIMEOUT", 1.0)


def refusal(options: TorOptions, directory: Path) -> CbfsError:
    """With what a Tor does not even start."""

    async def main() -> None:
        async with tor_of(options, directory):
            pass

    with pytest.raises(CbfsError) as caught:
        trio.run(main)
    assert caught.value.hint
    return caught.value


def test_our_tor_killed_is_started_again(
    tor_network: PrivateTorNetwork, tmp_path: Path, quick: None
) -> None:
    async def main() -> None:
        directory = tmp_path / "tor"
        async with (
            echo_server() as port,
            tor_of(own_options(tor_network, directory), directory) as (tor, changes),
        ):
            await changes.until(lambda report: report.up)
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)
                (pid,) = _children("tor", str(directory))
                os.kill(pid, signal.SIGKILL)
                down = await changes.until(lambda report: not report.up)
                assert down.state.startswith("not connected: tor has ended")
                assert down.hint
                with contextlib.suppress(trio.BrokenResourceError):
                    assert not await stream.receive_some()
            await changes.until(lambda report: report.up)
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)
                assert tor.report().circuits.keys() == {"home server"}

    trio.run(main)


def _children(name: str, word: str) -> list[int]:
    """Processes of this name that have the word in a file they hold open."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text().strip() == name and any(
                word in str(file.readlink()) for file in (path / "fd").iterdir()
            ):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_a_running_tor_stopped_and_started(
    system_tor: SystemTor, tmp_path: Path, quick: None
) -> None:
    async def main() -> None:
        options = TorOptions(control=system_tor.control)
        async with echo_server() as port, tor_of(options, tmp_path / "tor") as (tor, changes):
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)
            system_tor.stop()
            await changes.until(lambda report: report.state.startswith("not connected: "))
            with pytest.raises(DialError, match="Tor is not connected") as caught:
                await tor.dialer.dial("127.0.0.1", port, b"home:1")
            assert caught.value.hint
            assert not (tmp_path / "tor").exists()  # none of our own takes its place
            await trio.to_thread.run_sync(system_tor.start)
            await changes.until(lambda report: report.up)
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)

    trio.run(main)


def test_the_network_goes_and_comes_back(
    system_tor: SystemTor, tmp_path: Path, quick: None
) -> None:
    """As when a laptop is carried from one network to another."""

    async def main() -> None:
        options = TorOptions(control=system_tor.control)
        async with echo_server() as port, tor_of(options, tmp_path / "tor") as (tor, changes):
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)
                await trio.to_thread.run_sync(system_tor.switch_network, False)
                with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
                    assert not await stream.receive_some()
            with pytest.raises(DialError):
                await tor.dialer.dial("127.0.0.1", port, b"home:1")
            await changes.until(lambda report: not report.up)
            await trio.to_thread.run_sync(system_tor.switch_network, True)
            await changes.until(lambda report: report.up)
            async with await dial(tor, "127.0.0.1", port, b"home:1") as stream:
                await talk(stream)

    trio.run(main)


def test_a_start_that_is_stuck(tmp_path: Path, quick: None) -> None:
    """The one relay that this tor may talk to is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        bridges = tmp_path / "bridges"
        bridges.write_text(f"# mine\n127.0.0.1:{port} {'A' * 40}\n")

        async def main() -> None:
            options = TorOptions(bridges=bridges)
            async with tor_of(options, tmp_path / "tor") as (tor, changes):
                report = await changes.until(lambda report: "stuck" in report.state)
                assert "%" in report.state
                assert "refused" in report.state.lower()
                assert "bridges" in report.hint
                with pytest.raises(DialError, match="stuck"):
                    await tor.dialer.dial("example.org", 443, b"home:1")

        trio.run(main)


def test_a_torrc_line_that_tor_refuses(tmp_path: Path) -> None:
    torrc = tmp_path / "torrc"
    torrc.write_text("NoSuchThing 1\n")
    error = refusal(TorOptions(torrc=torrc), tmp_path / "tor")
    assert "tor refuses its configuration" in str(error)
    assert "NoSuchThing" in str(error)


def test_a_bridge_line_that_tor_refuses(tmp_path: Path) -> None:
    bridges = tmp_path / "bridges"
    bridges.write_text("192.0.2.1:443 not-a-fingerprint\n")
    error = refusal(TorOptions(bridges=bridges), tmp_path / "tor")
    assert "tor refuses its configuration" in str(error)


def test_no_program_tor(tmp_path: Path) -> None:
    error = refusal(TorOptions(control="own", program="no-such-tor"), tmp_path / "tor")
    assert "cannot be run" in str(error)
    assert "apt-get install tor" in error.hint


def test_nobody_at_the_control_port(tmp_path: Path, quick: None) -> None:
    """That is waited for: tor may be started after the mount."""

    async def main() -> None:
        options = TorOptions(control=f"{tmp_path}/none")
        async with tor_of(options, tmp_path / "tor") as (tor, _):
            assert "no tor answers" in tor.report().state
            assert tor.report().hint
            with pytest.raises(DialError, match="Tor is not connected: no tor answers"):
                await tor.dialer.dial("example.org", 443, b"home:1")

    trio.run(main)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 400\r\n\r\n", b"250 "])
def test_a_port_that_is_not_tor(
    answer: bytes, tmp_path: Path, quick: None, impatient: Callable[[], None]
) -> None:
    """It says something else, or (the last) nothing that ends."""
    impatient()

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        if answer == b"250 ":
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, handler, listeners)
            options = TorOptions(
                control="127.0.0.1:%d" % listeners[0].socket.getsockname()[1]  # noqa: UP031
            )
            try:
                async with tor_of(options, tmp_path / "tor") as (tor, _):
                    said = tor.report().state
            except ControlRefused as error:
                said = str(error)
            assert "is not the control port of a tor" in said or "does not answer" in said
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_wrong_cookie(tmp_path: Path, quick: None) -> None:
    directory = tmp_path / "system"
    cookie = tmp_path / "cookie"
    line = f"CookieAuthFile {cookie}"
    with lone_tor(directory, "CookieAuthentication 1", line, "SocksPort auto"):
        cookie.write_bytes(os.urandom(32))
        error = refusal(TorOptions(control=f"{directory}/control"), tmp_path / "tor")
        assert "does not know the cookie" in str(error)
        cookie.write_bytes(b"short")
        error = refusal(TorOptions(control=f"{directory}/control"), tmp_path / "tor")
        assert "cookie" in str(error)
        cookie.unlink()
        error = refusal(TorOptions(control=f"{directory}/control"), tmp_path / "tor")
        assert "cannot be read" in str(error)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((HASHED, "SocksPort auto"), "wants a password"),
        (("SocksPort 0",), "no SocksPort on 127.0.0.1"),
        (("SocksPort auto NoIsolateSOCKSAuth",), "puts everything on one circuit"),
        (("SocksPort auto PreferSOCKSNoAuth",), "puts everything on one circuit"),
    ],
)
def test_a_tor_that_cannot_be_used(lines: tuple[str, ...], words: str, tmp_path: Path) -> None:
    directory = tmp_path / "system"
    with lone_tor(directory, *lines):
        error = refusal(TorOptions(control=f"{directory}/control"), tmp_path / "tor")
    assert words in str(error)


def test_a_tor_that_hangs(tmp_path: Path, impatient: Callable[[], None]) -> None:
    async def main() -> None:
        directory = tmp_path / "system"
        with lone_tor(directory, "SocksPort auto") as process:
            live = await LiveTor.running(f"{directory}/control")
            process.send_signal(signal.SIGSTOP)
            impatient()
            with pytest.raises(CbfsError, match="does not answer"):
                await live.call(live.session.bootstrap)

    trio.run(main)


def test_a_running_tor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "system"
    places = (f"{tmp_path}/none", "127.0.0.1:1", f"{directory}/control")
    monkeypatch.setattr(cbfs.network.tor.session, "USUAL_PLACES", places)

    async def main() -> None:
        assert await find_running() == (None, None)
        with lone_tor(directory, "SocksPort auto"):
            live, refused = await find_running()
            assert live is not None
            assert refused is None
            await live.aclose()

    trio.run(main)


def test_a_listener_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert owner_of_listener(address) == os.getuid()
        monkeypatch.setattr(cbfs.network.tor.session, "owner_of_listener", lambda place: 54_321)
        monkeypatch.setattr(cbfs.network.tor.session, "USUAL_PLACES", (address,))
        live, refused = trio.run(find_running)
    assert live is None
    assert "belongs to another user" in str(refused)
    assert owner_of_listener("127.0.0.1:1") is None


PARENT = """
import sys
from pathlib import Path
from cbfs.network.tor.private_network import running_network
with running_network(lambda step: print(step, flush=True), Path(sys.argv[1])):
    pass
"""


def test_the_network_goes_when_its_owner_is_killed(tmp_path: Path) -> None:
    """Killed while it starts: nothing is left of the processes or of the directory."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        assert b"keys" in parent.stdout.readline()
        assert b"starting" in parent.stdout.readline()
        (guardian,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        ended = os.pidfd_open(int(guardian))
        parent.kill()
        parent.wait()
    try:
        assert select.select([ended], [], [], PATIENCE)[0]
    finally:
        os.close(ended)
    assert list(tmp_path.iterdir()) == []
    assert _children("tor", str(tmp_path)) == []
