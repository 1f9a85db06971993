"""Both servers by one command, and people by one line each, over the private Tor network."""

import subprocess
from pathlib import Path

import pytest

from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs_common.limits import INVITE_LINE_MAX
from tests.support.host import RunningHost
from tests.support.world import WAIT, run, wait_for

pytestmark = [pytest.mark.tor, pytest.mark.mount]


def test_two_who_have_a_line_each_meet_over_tor(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    client = tor_network.control("client")
    host = RunningHost(tmp_path / "host", "--tor", tor_network.control("host"))
    mounts = {name: tmp_path / name for name in ("alice", "bob")}
    try:
        assert ".onion" in host.said, host.log.read_text()
        inviter = None
        for name, mount in mounts.items():
            line = host.invite(name, account=inviter)
            assert len(line) <= INVITE_LINE_MAX
            inviter = inviter or tmp_path / f"{name}-account"
            account = tmp_path / f"{name}-account"
            done = run("cbfs", "init", line, account, "--tor", client)
            assert done.returncode == 0, done.stderr
            mount.mkdir()
            done = run("mount.cbfs", account, mount, "-o", f"grace=0.1,tor={client}")
            assert done.returncode == 0, done.stderr
        here = mounts["bob"] / "outbox" / "alice"
        here.mkdir()
        (here / "hello").write_text("I am here.\n")
        (there,) = wait_for(
            lambda: list(mounts["alice"].glob("conversations/*/*-bob")), "bob's message"
        )
        assert there.read_text() == "I am here.\n"
        known = (mounts["alice"] / "contacts" / "bob" / "profile.toml").read_text()
        assert 'known_by = "a line ' in known
        line = host.invite("--contact", account=tmp_path / "bob-account")
        (mounts["alice"] / "contacts" / "NEW").write_text(line)
        assert not list((mounts["alice"] / "contacts").glob("NEW*"))
    finally:
        for mount in mounts.values():
            subprocess.run(["fusermount3", "-u", "-z", mount], check=False, timeout=WAIT)
        host.end()
