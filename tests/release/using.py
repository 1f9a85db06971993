"""Using the package as two people do, each a user of the same bare system."""

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cbfs_common.version import VERSION
from tests.release.steps import Steps
from tests.release.systems import System
from tests.support.world import WAIT, wait_for

PROGRAMS = ("cbfs", "mount.cbfs", "cbfs-server", "cbfs-names")
PAGES = (
    *("man1/cbfs.1", "man1/cbfs-sendmail.1"),
    *("man8/mount.cbfs.8", "man8/cbfs-server.8", "man8/cbfs-names.8"),
)
UNITS = {
    "user": ("cbfs@", "cbfs-only@", "cbfs-bot@", "cbfs-host"),
    "system": ("cbfs-server", "cbfs-names", "cbfs-names-sequencer", "cbfs-names-verifier@"),
}
USERS = ("alice", "bob")


def used(system: System, name: str, data: bytes, steps: Steps) -> None:
    """Install, use and purge the package. Raises Failed, AssertionError."""
    package = system.place / "tmp" / name
    package.write_bytes(data)
    for user in USERS:
        system.run("useradd", "--create-home", user)
    with steps.step("installed, with what it needs"):
        system.apt("install", f"/tmp/{name}")
    package.unlink()
    with steps.step("all is where it should be"):
        owned = _looked_at(system)
    with steps.step("systemd is content with the units, and starts servers with the system"):
        system.apt("install", "--no-install-recommends", "systemd", "man-db", "procps")
        program = system.place / "run/bots/bot"  # which cbfs-bot@ runs, of whoever uses it
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        for kind, names in UNITS.items():
            units = [f"/usr/lib/systemd/{kind}/{each}.service" for each in names]
            manager = [f"--{kind}"] if kind == "user" else []
            environment = {"XDG_RUNTIME_DIR": "/tmp"}
            system.run("systemd-analyze", "verify", *manager, *units, **environment)
        system.run("systemctl", "enable", "cbfs-server", "cbfs-names-verifier@a1")
    with _host(system, steps):
        for user in USERS:
            with steps.step(f"{user} has an account, by a line"):
                line = _line(system, user)
                system.run("cbfs", "init", "-", "account", "--no-tor", said=line, user=user)
        with _mounted(system, "alice", steps), _mounted(system, "bob", steps):
            for sender, recipient in ("bob", "alice"), ("alice", "bob"):
                with steps.step(f"a message of {sender} to {recipient}"):
                    _said(system, sender, recipient)
        with steps.step("unmounted"):
            wait_for(
                lambda: not [each for each in _processes(system) if "mount.cbfs" in each],
                "both mounts to end",
            )
    kept = _digests(system)
    with steps.step("purged"):
        system.apt("purge", "cbfs")
    with steps.step("nothing is left of it, and all is left of its users"):
        _gone(system, owned)
        assert _digests(system) == kept


def _looked_at(system: System) -> set[str]:
    """The paths of the package, when all that it should have is among them."""
    owned = set(system.run("dpkg", "-L", "cbfs").split("\n")) - {"", "/."}
    share = "/usr/share"
    wanted = {
        *(f"/usr/bin/{program}" for program in PROGRAMS),
        *(f"{share}/man/{page}.gz" for page in PAGES),
        *(f"{share}/bash-completion/completions/{program}" for program in PROGRAMS),
        *(f"{share}/zsh/vendor-completions/_{program}" for program in PROGRAMS),
        *(f"{share}/fish/vendor_completions.d/{program}.fish" for program in PROGRAMS),
        *(f"/usr/lib/systemd/{kind}/{unit}.service" for kind in UNITS for unit in UNITS[kind]),
        f"{share}/applications/cbfs.desktop",
        f"{share}/icons/hicolor/scalable/apps/cbfs.svg",
    }
    assert wanted <= owned, sorted(wanted - owned)
    assert not [path for path in wanted if not (system.place / path[1:]).exists()]
    mount = system.run("readlink", "-f", "/sbin/mount.cbfs").strip()
    assert mount == "/usr/lib/cbfs/bin/mount.cbfs", mount
    for program in PROGRAMS:
        said = system.run(program, "--version", user="alice").strip()
        assert said == f"{program} {VERSION}", said
    return owned


@contextmanager
def _host(system: System, steps: Steps) -> Iterator[None]:
    """alice's message server and name directory; they and all else have ended afterwards."""
    words = ("cbfs", "host", "host", "--no-tor", "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        system.command(words, "alice"),
        env=system.environment("alice"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            with steps.step("alice hosts"):
                said = process.stdout.readline()
                assert said.startswith(b"serving"), said
            yield
        finally:
            process.terminate()
            try:
                process.wait(WAIT)
            finally:
                process.kill()
    wait_for(lambda: not _processes(system), "all processes to end")


def _line(system: System, user: str) -> str:
    """The line by which alice, who hosts, begins, or by which she invites somebody."""
    by = [] if user == "alice" else ["--account", "account"]
    return system.run("cbfs", "invite", user, "--host", "host", *by, user="alice")


@contextmanager
def _mounted(system: System, user: str, steps: Steps) -> Iterator[None]:
    system.run("mkdir", "chat", user=user)
    with steps.step(f"{user} has mounted"):
        system.run("mount.cbfs", "account", "chat", "--no-tor", user=user)
    try:
        yield
    finally:
        system.run("fusermount3", "-u", "chat", user=user)


def _said(system: System, sender: str, recipient: str) -> None:
    """Send a message, and read it at the other side."""
    words = f"mkdir chat/outbox/{recipient}; echo I am {sender} >chat/outbox/{recipient}/hello"
    system.run("sh", "-ec", words, user=sender)
    look = f"cat chat/conversations/*/*-{sender} || :"
    wait_for(
        lambda: f"I am {sender}" in system.run("sh", "-c", look, user=recipient),
        f"the message of {sender}",
    )


def _processes(system: System) -> list[str]:
    """The command lines of what runs in a system."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "root").readlink() == system.place:
                found.append((process / "cmdline").read_text())
    return found


_OF_OTHERS = ("/home/", "/var/cache/man/")
"""Where users and man-db, when it has shown a page, keep what is theirs."""


def _gone(system: System, owned: set[str]) -> None:
    """Raises AssertionError if something of the package, or called after it, is there."""
    others = {line for path in (system.place / "var/lib/dpkg/info").glob("*.list")
              for line in path.read_text().splitlines()}  # fmt: skip
    left = {path for path in system.files() - others
            if path in owned or ("cbfs" in path and not path.startswith(_OF_OTHERS))}  # fmt: skip
    assert not left, sorted(left)


def _digests(system: System) -> dict[str, str]:
    """What the users have, by paths."""
    home = system.place / "home"
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in home.rglob("*") if path.is_file() and not path.is_symlink()}  # fmt: skip
