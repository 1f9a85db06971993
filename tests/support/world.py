"""Real programs for the tests: a directory, servers, accounts and mounts, all on loopback."""

import os
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.account.settings import Reactions, Settings, Strangers, encode
from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs.storage.store import Meta, Table
from tests.support import children

T = TypeVar("T")

SCRIPTS = Path(sysconfig.get_path("scripts"))
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "default"}
WAIT = children.WAIT


def program(name: str, *arguments: str | Path) -> list[str]:
    """The command line of one of our programs."""
    return [str(SCRIPTS / name), *map(str, arguments)]


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of our programs to its end."""
    return subprocess.run(
        program(name, *arguments),
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )


def wait_for(look: Callable[[], T | None], what: str) -> T:
    """What ``look`` gives, when it gives something."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        select.select([], [], [], 0.02)
    raise AssertionError(f"waited in vain for {what}")


@dataclass(frozen=True, slots=True)
class Way:
    """The options by which servers publish themselves, accounts and mounts reach them."""

    servers: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ("--no-tor",)
    mounts: tuple[str, ...] = ("--no-tor",)


def through_tor(network: PrivateTorNetwork) -> Way:
    """Servers as onions, everybody through the network's one client."""
    client = network.control("client")
    return Way(
        ("--onion", "--tor-control", network.control("host")),
        ("--tor", client),
        ("-o", f"tor={client}"),
    )


def make_easy(account: Path, *, open_: bool = True) -> None:
    """Set in an account that is not in use that receipts and repairs come promptly, and with
    ``open_`` that who writes first is a contact at once."""
    strangers = Strangers.ACCEPT if open_ else Strangers.ASK
    data = encode(Settings(strangers=strangers, reactions=Reactions.PROMPT))
    with opened_store(account, SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, data))


CHEAP_NAMES = ("--registration", "work:0", "--short", "3")
"""What a name directory of one process is told, unless a test says otherwise: in a town of its own
nobody has to work for a name, and bob may be called so."""


class Service:
    """A server of ours as a process; it can be killed and started again."""

    def __init__(
        self,
        name: str,
        data: Path,
        options: tuple[str, ...] = (),
        listen: str = "127.0.0.1:0",
        through: tuple[str, ...] = (),
    ) -> None:
        """``through``: a command that runs the server as its last words."""
        self.name = name
        self._through = through
        whole = name == "cbfs-names" and "--config" not in options
        cheap = whole and not {"--registration", "--short"} & set(options)
        self._options = (*CHEAP_NAMES, *options) if cheap else options
        self._data = data
        self._listen = listen
        self._log = (data.parent / f"{data.name}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start, at the same address as before."""
        self._process = subprocess.Popen(
            [
                *self._through,
                *program(self.name, "--data", self._data, "--listen", self._listen, *self._options),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=ENVIRONMENT,
        )
        if self._process.stdout is None:
            raise AssertionError("no stdout")
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url:
            raise AssertionError(f"{self.name} did not start: {self.log()}")
        if not {"--onion", "--public"} & set(self._options):
            self._listen = self.url.partition("@")[2]

    @property
    def pid(self) -> int:
        """Of the running process."""
        return self._process.pid if self._process else 0

    def log(self) -> str:
        """All that it has logged."""
        return (self._data.parent / f"{self._data.name}.log").read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(how)
        code = self._process.wait(WAIT)
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None
        return code

    def close(self) -> None:
        """End it for good."""
        self.end()
        self._log.close()


class User:
    """An account with a mount."""

    def __init__(
        self, world: "World", name: str, server: str | None, directory: str = "names"
    ) -> None:
        """``server`` is None for one of its own; ``directory``: where the process is that has the
        name."""
        self.name = name
        self.mounts = world.way.mounts
        """How it reaches servers while it is mounted."""
        called = name if directory == "names" else f"{name}-{directory}"
        self.account = world.place / f"{called}-account"
        self.mountpoint = world.place / called
        self.mountpoint.mkdir()
        policy = world.place / directory / "policy"
        words = ("init", name, "--account", self.account, "--names", policy, *world.way.accounts)
        home = ("--own-server",) if server is None else ("--server", server)
        said = world.place / f"{called}-init"
        if children.run_cbfs([*map(str, words), *home], ENVIRONMENT, said) != 0:
            raise AssertionError(said.read_text())
        make_easy(self.account, open_=world.open)

    def mount(self, options: str = "grace=0.1") -> None:
        """Mount it; returns when it answers."""
        done = run("mount.cbfs", self.account, self.mountpoint, "-o", options, *self.mounts)
        if done.returncode != 0:
            raise AssertionError(done.stderr)

    def unmount(self) -> None:
        """Unmount and wait until the daemon is gone, which is when the account is unlocked."""
        subprocess.run(["fusermount3", "-u", "-z", self.mountpoint], check=True, timeout=WAIT)
        self.wait_ended()

    def kill(self) -> None:
        """SIGKILL the daemon."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.wait_ended()
        subprocess.run(["fusermount3", "-u", "-z", self.mountpoint], check=False, timeout=WAIT)

    def pids(self) -> list[int]:
        """Processes of this mount."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.mountpoint).encode() in words and any(b"mount.cbfs" in w for w in words):
                found.append(int(entry.name))
        return found

    def wait_ended(self) -> None:
        """Until no daemon is left."""
        wait_for(lambda: not self.pids() or None, f"{self.name}'s daemon to end")

    def write(self, folder: str, name: str, text: str | bytes) -> None:
        """Save a file in an outbox folder."""
        data = text.encode() if isinstance(text, str) else text
        (self.mountpoint / "outbox" / folder / name).write_bytes(data)

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """A shell script in the mount, which goes on by itself."""
        return subprocess.Popen(
            ["sh", "-euc", script],
            cwd=self.mountpoint,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, script: str) -> str:
        """A shell script in the mount; what it printed. It must succeed."""
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self.mountpoint,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"{script}: {done.stderr}")
        return done.stdout

    def messages(self, sender: str = "") -> list[Path]:
        """Paths of all messages, of one sender when named."""
        found = (self.mountpoint / "conversations").glob("*/*Z-*")
        return sorted(p for p in found if not sender or f"Z-{sender}" in p.name)

    def wait_message(self, sender: str, text: str) -> Path:
        """The message with that text."""

        def look() -> Path | None:
            for path in self.messages(sender):
                if path.is_file() and path.read_bytes() == text.encode():
                    return path
            return None

        return wait_for(look, f"{text!r} from {sender} at {self.name}")


class World:
    """A directory, a server, and users."""

    def __init__(self, place: Path, stack: ExitStack, way: Way | None = None) -> None:
        self.place = place
        self.way = way or Way()
        self.open = True
        """Whether users accept strangers, as they do in all tests but those of requests/."""
        self._stack = stack
        self.names = self._service("cbfs-names", "names")
        self.directories: dict[str, Service] = {}

    @cached_property
    def server(self) -> Service:
        """The message server, started when it is first asked for."""
        return self._service("cbfs-server", "server")

    def _service(self, name: str, data: str) -> Service:
        service = Service(name, self.place / data, self.way.servers)
        self._stack.callback(service.close)
        return service

    def another_server(self, data: str) -> Service:
        """One more message server."""
        return self._service("cbfs-server", data)

    def another_directory(self, data: str, namespace: str) -> Path:
        """One more name directory; its policy file."""
        options = (*self.way.servers, "--namespace", namespace)
        service = Service("cbfs-names", self.place / data, options)
        self._stack.callback(service.close)
        self.directories[data] = service
        return self.place / data / "policy"

    def server_at(self, listen: str, public: str) -> Service:
        """One more message server, which listens there and is reached otherwise."""
        service = Service("cbfs-server", self.place / "behind", ("--public", public), listen)
        self._stack.callback(service.close)
        return service

    def account(self, name: str, server: Service | None = None, directory: str = "names") -> User:
        """A user, not mounted yet."""
        user = User(self, name, (server or self.server).url, directory)
        self._stack.callback(_end, user)
        return user

    def account_with_server(self, name: str) -> User:
        """A user with a server of its own, not mounted yet."""
        user = User(self, name, None)
        self._stack.callback(_end, user)
        return user

    def user(self, name: str, server: Service | None = None, directory: str = "names") -> User:
        """A user, mounted."""
        user = self.account(name, server, directory)
        user.mount()
        return user


def _end(user: User) -> None:
    for pid in user.pids():
        os.kill(pid, signal.SIGTERM)
    subprocess.run(
        ["fusermount3", "-u", "-z", user.mountpoint],
        check=False,
        stderr=subprocess.DEVNULL,
        timeout=WAIT,
    )
    try:
        user.wait_ended()
    except AssertionError:
        for pid in user.pids():
            os.kill(pid, signal.SIGKILL)
        print(f"{user.name}'s daemon had to be killed", file=sys.stderr)


@contextmanager
def world(place: Path, way: Way | None = None) -> Iterator[World]:
    """Everything ends with the block. ``way`` is by default plain loopback."""
    with ExitStack() as stack:
        yield World(place, stack, way)
