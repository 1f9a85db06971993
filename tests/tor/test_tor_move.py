"""An account moves to another computer through the private Tor network."""

import subprocess
from pathlib import Path

import pytest

from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs_common.limits import INVITE_LINE_MAX
from tests.support.moving import arrive, leaving
from tests.support.world import WAIT, run, through_tor, world

pytestmark = [pytest.mark.tor, pytest.mark.mount]


def test_an_account_moves_over_tor_by_a_line_of_its_own(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    with world(tmp_path, through_tor(tor_network)) as here:
        alice, bob = here.user("alice"), here.user("bob")
        alice.run("mkdir outbox/bob && echo one > outbox/bob/one")
        bob.wait_message("alice", "one\n")
        bob.run("mkdir outbox/alice && echo two > outbox/alice/two")
        alice.wait_message("bob", "two\n")
        alice.unmount()
        bob.run("mkdir -p outbox/alice && echo meanwhile > outbox/alice/meanwhile")
        new = tmp_path / "new-account"
        with leaving(alice.account, "--tor", tor_network.control("host")) as old:
            assert len(old.line) <= INVITE_LINE_MAX
            done = arrive(old.line, new, "--tor", tor_network.control("client"))
            assert done.returncode == 0, (done.stderr, old.log.read_text())
            assert old.wait()[0] == 0, old.log.read_text()
        refused = run("mount.cbfs", alice.account, alice.mountpoint, *alice.mounts)
        assert "has moved to another computer" in refused.stderr
        alice.account = new
        alice.mount()
        alice.wait_message("bob", "meanwhile\n")
        alice.run("mkdir -p outbox/bob && echo four > outbox/bob/four")
        bob.wait_message("alice", "four\n")
        subprocess.run(["fusermount3", "-u", "-z", alice.mountpoint], check=False, timeout=WAIT)


def test_a_server_of_ones_own_moves_with_its_account(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    with world(tmp_path, through_tor(tor_network)) as here:
        alice, bob = here.account_with_server("alice"), here.user("bob")
        alice.mount()
        bob.run("mkdir -p outbox/alice && echo one > outbox/alice/one")
        alice.wait_message("bob", "one\n")
        alice.unmount()
        new = tmp_path / "new-account"
        with leaving(alice.account, "--tor", tor_network.control("client")) as old:
            done = arrive(old.line, new, "--tor", tor_network.control("client"))
            assert done.returncode == 0, (done.stderr, old.log.read_text())
            assert old.wait()[0] == 0, old.log.read_text()
        alice.account = new
        alice.mount()
        bob.run("mkdir -p outbox/alice && echo two > outbox/alice/two")
        alice.wait_message("bob", "two\n")
