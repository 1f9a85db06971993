"""Those who are at a host invite others, where its settings let them; and what the host does when
these change, or when it dies."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store, put_own_server
from cbfs.commands.home.host import _UNLESS_ALONE
from cbfs.network.dial import HOME, LoopbackDialer
from cbfs.network.link import ServerRefused, open_link, request
from cbfs.storage.store import Meta, Table
from cbfs_common.wire.requests import AskInvite, Code
from tests.support.host import RunningHost, init_by
from tests.support.world import WAIT, run, wait_for


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    hosting = RunningHost(tmp_path_factory.mktemp("of") / "host", "--no-tor")
    yield hosting
    assert hosting.end() == 0, hosting.log.read_text()


def allow(host: RunningHost, number: int) -> None:
    """Let each account invite so many a week."""
    change(
        host, r"user-invites = \d+", f"user-invites = {number}", "settings have changed: user-inv"
    )


def change(host: RunningHost, before: str, after: str, told: str) -> None:
    """Change the settings, and wait until something new was said of that."""
    file, said = host.place / "host.toml", len(host.log.read_text())
    file.write_text(re.sub(before, after, file.read_text()))
    host.process.send_signal(signal.SIGHUP)
    wait_for(lambda: told in host.log.read_text()[said:], f"the host to say {told}")


def invited_by(account: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return run("cbfs", "invite", *words, "--account", account, "--no-tor")


def made(host: RunningHost, place: Path) -> Path:
    """An account that whoever runs the host has invited, under the name of its directory."""
    done = init_by(host.invite(place.name), place)
    assert done.returncode == 0, done.stderr
    return place


def test_who_is_at_a_host_invites_as_many_as_it_lets_them(
    host: RunningHost, tmp_path: Path
) -> None:
    alice = made(host, tmp_path / "alice")
    done = invited_by(alice, "bob")
    assert done.returncode == 1
    assert "does not let this account invite" in done.stderr
    assert "user-invites" in done.stderr
    allow(host, 2)
    lines = []
    for name in ("bob", "carol"):
        done = invited_by(alice, name)
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.strip())
    done = invited_by(alice)
    assert done.returncode == 1
    assert "no more invites this week" in done.stderr
    assert "wait until next week" in done.stderr
    for line, name in zip(lines, ("bob", "carol"), strict=True):
        done = init_by(line, tmp_path / name)
        assert done.returncode == 0, done.stderr
    # they may do so in their turn, but not within the week
    done = invited_by(tmp_path / "bob", "dave")
    assert done.returncode == 1
    assert "from the next week on" in done.stderr
    allow(host, 3)
    done = invited_by(alice, "--contact")
    assert done.returncode == 0, done.stderr


def test_an_account_that_no_line_has_made_has_no_grant(host: RunningHost, tmp_path: Path) -> None:
    erin = made(host, tmp_path / "erin")
    with opened_store(erin, SYSTEM_RANDOM) as store:
        account = load_account(store)
        with store.read() as reader:
            grant = reader.get(Table.META, Meta.GRANT)
        store.write(lambda writer: writer.delete(Table.META, Meta.GRANT))
    assert account
    assert grant
    done = invited_by(erin, "frank")
    assert done.returncode == 1
    assert "no line of a host" in done.stderr

    async def ask() -> None:
        """A grant alone is good for nothing: who has no account gets nothing for it."""
        key = SYSTEM_RANDOM.token(32)
        async with open_link(LoopbackDialer(), account.server, key, HOME, SYSTEM_RANDOM) as link:
            with pytest.raises(ServerRefused) as caught:
                await request(link, AskInvite(grant, 0))
            assert caught.value.code is Code.NO_ACCOUNT

    trio.run(ask)


def test_a_server_of_ones_own_takes_nobody_by_a_line(host: RunningHost, tmp_path: Path) -> None:
    place = made(host, tmp_path / "grace")
    with opened_store(place, SYSTEM_RANDOM) as store:
        account = load_account(store)
        assert account
        store.write(lambda writer: put_own_server(writer, account.server))
    for words in (("--contact",), ("heidi",)):
        done = invited_by(place, *words)
        assert done.returncode == 1
        assert "your home server is your own" in done.stderr


def test_a_host_says_what_of_its_settings_counts_when(host: RunningHost) -> None:
    before = (host.place / "host.toml").read_text()
    change(host, r"user-invites = \d+", "user-invites = 9", "settings have changed: user-invites")
    change(host, r"short = 3", "short = 4", "settings that count when it is started again: short")
    change(host, r"tor = false", "tor = true", "the settings stay as they were")
    change(host, r"tor = true", "tor = ", "is no TOML")
    assert host.process.poll() is None
    (host.place / "host.toml").write_text(before)


def test_what_begins_after_its_parent_has_died_does_not_go_on() -> None:
    """It was to end with that, and no signal comes any more."""
    for pid, said in ((1, ""), (None, "on\n")):
        script = "import os, subprocess, sys; me = sys.argv[2] or str(os.getpid());"
        script += "subprocess.run(['sh', '-c', sys.argv[1], me, 'echo', 'on'])"
        done = subprocess.run(
            [sys.executable, "-c", script, _UNLESS_ALONE, str(pid or "")],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=True,
        )
        assert done.stdout == said
