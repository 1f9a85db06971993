"""``cbfs demo``: two users on this machine, from nothing to a message and its reply.

Everything is real: the directory, the server, two accounts, two mounts. Everything is in one
directory and is gone at the end."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cbfs.commands.mountpoints import remove_tree
from cbfs.mount.mount_table import source_of, unmount
from cbfs.network.own_server import installed
from cbfs.network.tor.private_network import running_network
from cbfs_common.errors import CbfsError

T = TypeVar("T")

START_TIMEOUT = 60.0
ARRIVAL_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
"""Seconds."""

POLL = 0.02

PEOPLE = "alice", "bob"

HELLO = "Hello Bob, this is a file that I saved in my outbox."
ANSWER = "Hello Alice, and this is the file that I saved in mine."


class DemoSteps:
    """Tells what is being done, and how long it took."""

    def __init__(self) -> None:
        self._total = 0.0

    def do(self, text: str, work: Callable[[], T]) -> T:
        """Run one step, and say how long it took."""
        print(f"  {text:<58}", end="", flush=True)
        started = time.monotonic()
        result = work()
        taken = time.monotonic() - started
        self._total += taken
        print(f"{taken:6.2f} s", flush=True)
        return result

    @property
    def total(self) -> float:
        """Seconds of all steps so far."""
        return self._total


@dataclass(frozen=True, slots=True)
class Way:
    """The options by which servers publish themselves, and accounts and mounts reach them."""

    servers: tuple[str, ...] = ("--listen", "127.0.0.1:0")
    accounts: tuple[str, ...] = ("--no-tor",)
    mounts: tuple[str, ...] = ("--no-tor",)


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs demo`` takes."""
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="made, and removed at the end if it was not there (default: a temporary one)",
    )
    parser.add_argument(
        "--tor", action="store_true", help="over a private Tor network on this machine"
    )
    parser.set_defaults(run=lambda options: run(options.directory, tor=options.tor))


def run(directory: Path | None, *, tor: bool) -> int:
    """Show how two users exchange messages, below ``directory`` (a fresh temporary one when None).
    ``tor``: everything goes through onion services of a private Tor network on this machine."""
    with _place(directory) as place, ExitStack() as stack:
        print(f"cbfs demo: alice and bob in {place}\n")
        steps = DemoSteps()
        way = Way()
        if tor:
            network = steps.do(
                "a private Tor network starts",
                lambda: stack.enter_context(running_network(lambda word: None, place)),
            )
            client, host = network.control("client"), network.control("host")
            way = Way(
                (*way.servers, "--onion", "--tor-control", host),
                ("--tor", client),
                ("-o", f"tor={client}"),
            )
        alice, bob = _set_up(steps, place, stack, way)
        talk(steps, alice, bob)
        _show("alice's mount", alice)
        _show("bob's mount", bob)
        print(f"\nall of it took {steps.total:.1f} s")
        if sys.stdin.isatty() and sys.stdout.isatty():
            _stay(alice, bob)
    print("unmounted, stopped, removed")
    return 0


@contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    """The demo's directory; what the demo made of it is removed at the end."""
    if directory is None:
        fresh = Path(tempfile.mkdtemp(prefix="cbfs-demo-"))
        try:
            yield fresh
        finally:
            _remove(fresh)
        return
    place = directory.absolute()
    existed = place.exists()
    if existed and (not place.is_dir() or any(place.iterdir())):
        raise CbfsError(f"{place} is not an empty directory", "name a directory that is not there")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CbfsError(f"cannot make {place}", "name a directory that you may write to") from error
    try:
        yield place
    finally:
        _remove(place, itself=not existed)


def _remove(place: Path, *, itself: bool = True) -> None:
    for name in PEOPLE:  # an interrupt between two steps leaves what the one has made
        _unmount(place / name)
    remove_tree(place, itself=itself)


def _set_up(steps: DemoSteps, place: Path, stack: ExitStack, way: Way) -> tuple[Path, Path]:
    """Start directory and server, make two accounts and mount them. Gives the mountpoints."""
    server = ("cbfs-server", "--data", str(place / "server"), *way.servers)
    start_names(steps, place, stack, way)
    url = steps.do("the message server starts", lambda: stack.enter_context(service(*server)))
    return mounted_pair(steps, place, stack, way, (url, url))


def start_names(steps: DemoSteps, place: Path, stack: ExitStack, way: Way) -> None:
    """Start a name directory."""
    names = ("cbfs-names", "--data", str(place / "names"), "--short", "3", *way.servers)
    steps.do("the name directory starts", lambda: stack.enter_context(service(*names)))


def mounted_pair(
    steps: DemoSteps, place: Path, stack: ExitStack, way: Way, urls: tuple[str, str]
) -> tuple[Path, Path]:
    """Make accounts of alice and bob, each at a server, and mount them. Gives the mountpoints."""
    mounts = []
    for name, url in zip(PEOPLE, urls, strict=True):
        account, mount = place / f"{name}-account", place / name
        mount.mkdir(mode=0o700)
        policy = str(place / "names" / "policy")
        init = ("cbfs", "init", name, "--account", str(account), *way.accounts)
        more = ("--server", url, "--names", policy)
        steps.do(f"{name} makes an account", partial(_call, *init, *more))
        steps.do(f"{name} mounts it", partial(stack.enter_context, _mounted(account, mount, way)))
        mounts.append(mount)
    return mounts[0], mounts[1]


def talk(steps: DemoSteps, alice: Path, bob: Path) -> None:
    """A first message of alice to bob, and his answer."""
    print("\n  $ mkdir alice/outbox/bob")
    print(f"  $ echo '{HELLO}' > alice/outbox/bob/hello\n")
    (alice / "outbox" / "bob").mkdir()
    (alice / "outbox" / "bob" / "hello").write_text(HELLO + "\n")
    request = steps.do("it is sent and waits in bob's requests/", lambda: _request(bob, "alice"))
    print("\n  $ mv bob/requests/alice bob/contacts/\n")
    request.rename(bob / "contacts" / "alice")
    found = steps.do("bob accepts her, and it appears", lambda: _arrival(bob, "alice"))
    print(f"\n  $ cat 'bob/{found.relative_to(bob)}'\n  {found.read_text().strip()}\n")
    folder = found.parent.name
    print(f"  $ echo '{ANSWER}' > 'bob/outbox/{folder}/answer'\n")
    (bob / "outbox" / folder / "answer").write_text(ANSWER + "\n")
    found = steps.do("bob's answer appears in alice's mount", lambda: _arrival(alice, "bob"))
    print(f"\n  $ cat 'alice/{found.relative_to(alice)}'\n  {found.read_text().strip()}\n")


def _request(mount: Path, name: str) -> Path:
    """The request of a stranger, when it is there."""
    folder = mount / "requests" / name

    def look() -> Path | None:
        return folder if (folder / "message").exists() else None

    return wait_for(look, ARRIVAL_TIMEOUT, f"a request of {name} in {mount}")


def _arrival(mount: Path, sender: str) -> Path:
    """The first message of that sender, when it is there."""

    def look() -> Path | None:
        found = (mount / "conversations").glob(f"*/*-{sender}*")
        return next((path for path in found if path.is_file()), None)

    return wait_for(look, ARRIVAL_TIMEOUT, f"a message from {sender} in {mount}")


def wait_for(look: Callable[[], T | None], timeout: float, what: str) -> T:
    """What ``look`` gives at last. Raises CbfsError."""
    end = time.monotonic() + timeout
    while (found := look()) is None:
        if time.monotonic() > end:
            raise CbfsError(
                f"waited {timeout:.0f} s for {what}, in vain", "see status in the mounts"
            )
        time.sleep(POLL)
    return found


def _show(title: str, mount: Path) -> None:
    print(f"{title}:")
    for path in sorted(mount.rglob("*")):
        depth = len(path.relative_to(mount).parts)
        print("  " * depth + path.name + ("/" if path.is_dir() else ""))


def _stay(alice: Path, bob: Path) -> None:
    print(
        f"\nIt stays until Ctrl-C. Try in another terminal:\n"
        f"  cat {alice}/README\n"
        f"  ls -lR {bob}/conversations\n"
        f"  cp /etc/hostname {alice}/outbox/bob/\n"
        f"  tail -f {bob}/status\n"
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


def _call(name: str, *arguments: str) -> None:
    command, pipe = [installed(name), *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            _out, told = process.communicate()
        except BaseException:
            _end(process)  # not by a kill: it undoes what it has begun
            raise
    if process.returncode != 0:
        raise _failure(f"{name} failed", told)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()


def _failure(what: str, told: str) -> CbfsError:
    """An error with the words in which a program of ours has said why."""
    found = {"error": "it did not say why", "hint": ""}
    for line in told.splitlines():
        for word in found:
            _program, here, text = line.partition(f": {word}: ")
            if here:
                found[word] = text
    return CbfsError(f"{what}: {found['error']}", found["hint"])


@contextmanager
def service(name: str, *arguments: str) -> Iterator[str]:
    """Run a server for the length of the block; the address that it prints."""
    log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - lives as long as the process
    with (
        log,
        subprocess.Popen(
            [installed(name), *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            line = (process.stdout.readline() if process.stdout else "").strip()
            if not line:
                process.wait(START_TIMEOUT)
                log.seek(0)
                raise _failure(f"{name} did not start", log.read())
            yield line
        finally:
            _end(process)


@contextmanager
def _mounted(account: Path, mountpoint: Path, way: Way) -> Iterator[None]:
    try:
        _call("mount.cbfs", str(account), str(mountpoint), "-o", "grace=0.1", *way.mounts)
        yield
    finally:
        _unmount(mountpoint)


def _unmount(mountpoint: Path) -> None:
    """If one of ours is there: also when it was interrupted the moment that it was made."""
    if source_of(mountpoint) and not unmount(mountpoint, lazy=False):
        unmount(mountpoint, lazy=True)  # a program is in it: it ends when that does
