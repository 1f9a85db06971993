"""A server of one's own as a process, without Tor: for its owner, as long as it is wanted."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.network.dial import HOME, DialError, LoopbackDialer, OwnServerDialer
from cbfs.network.link import ServerRefused, open_link
from cbfs.receiving.signing_up import sign_up
from cbfs_common.primitives import dh_public
from cbfs_common.profile import parse_address
from cbfs_common.wire.requests import Code
from tests.support.world import ENVIRONMENT, WAIT, program, run


def test_only_its_owner_makes_accounts_and_it_ends_with_its_input(tmp_path: Path) -> None:
    own = tmp_path / "local"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(own))  # by one that was killed
    command = program("cbfs-server", "--data", tmp_path / "data", "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        [*command, "--own", str(own)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = parse_address(process.stdout.readline().decode().strip())
        assert own.stat().st_mode & 0o777 & 0o077 == 0
        dialer = OwnServerDialer(str(own), lambda: "127.0.0.1", LoopbackDialer())

        async def create(isolation: bytes, secret: bytes) -> None:
            async with open_link(dialer, address, secret, isolation, SYSTEM_RANDOM) as link:
                await sign_up(link, dh_public(secret), SYSTEM_RANDOM)

        owner = os.urandom(32)
        trio.run(create, HOME, owner)
        trio.run(create, b"deliver:1", owner)  # again, and as everybody else reaches it
        with pytest.raises(ServerRefused) as caught:
            trio.run(create, b"deliver:1", os.urandom(32))
        assert caught.value.code is Code.TOO_MANY
        process.stdin.close()
        assert process.wait(WAIT) == 0
    assert not own.exists()
    with pytest.raises(DialError) as gone:
        trio.run(create, HOME, owner)
    assert gone.value.hint


def test_a_place_where_no_socket_can_be(tmp_path: Path) -> None:
    done = run(
        *("cbfs-server", "--data", tmp_path / "data", "--listen", "127.0.0.1:0"),
        *("--own", tmp_path / "none" / "local"),
    )
    assert done.returncode == 1
    assert "cannot listen at" in done.stderr
    assert "cbfs: hint:" in done.stderr


def test_a_key_for_what_is_no_onion(tmp_path: Path) -> None:
    done = run("cbfs", "onion-key", "example.org", "--account", tmp_path / "a")
    assert done.returncode == 1
    assert "cbfs: hint:" in done.stderr
    assert not (tmp_path / "a").exists()
