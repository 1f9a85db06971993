"""Another machine: a mount of a hub's account through ssh, with an sshd of the test's own, by way
of a proxy that delays and cuts."""

import os
import queue
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgpack

from cbfs.mount.single.wire import Frames
from tests.support.world import ENVIRONMENT, SCRIPTS, WAIT, program, wait_for

SSHD = "/usr/sbin/sshd"
_RESET = struct.pack("ii", 1, 0)


class Network:
    """A proxy on loopback in front of ``port``: ``delay`` seconds each way. It can be cut: at once,
    or when so many more bytes have passed, in either direction; and it can stand still."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self._target = port
        self.delay = delay
        self.heard = bytearray()
        """What has passed, when ``listens``."""
        self.listens = False
        self.passed = 0
        """Bytes that have passed, in either direction."""
        self.links = 0
        """Connections so far."""
        self.cuts = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._left = -1
        self._down = False
        self._goes = threading.Event()
        self._goes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, stays_down: bool = False) -> None:
        """Reset all that is open; nobody gets through then while it ``stays_down``."""
        with self._lock:
            self._down = stays_down
            self.cuts += 1
            self._left = -1
            for end in self._open:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def cut_after(self, count: int) -> None:
        """Cut when so many more bytes have passed."""
        with self._lock:
            self._left = count

    @property
    def is_to_be_cut(self) -> bool:
        """Whether ``cut_after`` has not cut yet."""
        return self._left >= 0

    def mend(self) -> None:
        """Let everything through again."""
        with self._lock:
            self._down = False
        self._goes.set()

    def stall(self) -> None:
        """Nothing passes, and nothing is closed, until ``mend``."""
        self._goes.clear()

    def close(self) -> None:
        """End it."""
        self.cut(stays_down=True)
        self._goes.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
                self.links += 1
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        threads = []
        for source, target in ((client, server), (server, client)):
            waiting: queue.Queue[tuple[float, bytes]] = queue.Queue()
            for each, end in ((self._take, source), (self._give, target)):
                threads.append(threading.Thread(target=each, args=(end, waiting), daemon=True))
                threads[-1].start()
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _take(self, source: socket.socket, waiting: "queue.Queue[tuple[float, bytes]]") -> None:
        while True:
            try:
                data = source.recv(65_536)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self.delay, data))
            if not data:
                return

    def _give(self, target: socket.socket, waiting: "queue.Queue[tuple[float, bytes]]") -> None:
        while True:
            due, data = waiting.get()
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            self._goes.wait()
            if not data:
                with suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
                return
            cuts = False
            with self._lock:
                if self._left >= 0:
                    cuts = len(data) >= self._left
                    data = data[: self._left]
                    self._left -= len(data)
                self.passed += len(data)
                if self.listens:
                    self.heard += data
            with suppress(OSError):
                target.sendall(data)
            if cuts:
                self.cut()
                return


class Sshd:
    """An sshd on loopback, with keys of its own, for this user. ``forced``: the command that the
    key is good for, and no other. ``path``: what PATH begins with there."""

    def __init__(self, place: Path, forced: str = "", path: str = str(SCRIPTS)) -> None:
        place.mkdir(mode=0o700)
        self.place = place
        for key in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / key)]
            subprocess.run(words, check=True, timeout=WAIT)
        options = f'command="{forced}",restrict ' if forced else "restrict "
        (place / "authorized").write_text(options + (place / "user.pub").read_text())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        environment = {"PATH": f"{path}:{os.environ['PATH']}", "PYTHONWARNINGS": "default"}
        (place / "sshd_config").write_text(
            f"""ListenAddress 127.0.0.1:{self.port}
HostKey {place}/host
AuthorizedKeysFile {place}/authorized
PidFile none
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 100
SetEnv {" ".join(f"{key}={value}" for key, value in environment.items())}
"""
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Begin to listen."""
        command = [SSHD, "-D", "-e", "-f", str(self.place / "sshd_config")]
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(self._listens, "sshd to listen")

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def client(self, name: str, port: int) -> str:
        """The command for CBFS_SSH of a machine that reaches it as ``hub`` at this port."""
        known = self.place / f"known-{name}"
        known.write_text(f"[127.0.0.1]:{port} {(self.place / 'host.pub').read_text()}")
        config = self.place / f"config-{name}"
        config.write_text(
            f"""Host hub
HostName 127.0.0.1
Port {port}
IdentityFile {self.place}/user
IdentitiesOnly yes
UserKnownHostsFile {known}
StrictHostKeyChecking yes
"""
        )
        return shlex.join(["ssh", "-F", str(config)])

    def close(self) -> None:
        """End it; what it has begun goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT)


@dataclass
class Laptop:
    """A machine that mounts ``account`` of the hub at ``path``. ``ssh``: the command that leads
    there."""

    place: Path
    account: Path
    ssh: str
    options: tuple[str, ...] = ()
    host: str = "hub"

    def __post_init__(self) -> None:
        self.place.mkdir(exist_ok=True)
        self.path = self.place / "mount"
        self.path.mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.place / "log"

    @property
    def environment(self) -> dict[str, str]:
        """What its programs see."""
        return {
            **ENVIRONMENT,
            "CBFS_SSH": self.ssh,
            "XDG_STATE_HOME": str(self.place / "state"),
            "XDG_CACHE_HOME": str(self.place / "cache"),
        }

    @property
    def url(self) -> str:
        """Of the hub's account."""
        return f"ssh://{self.host}/{self.account}"

    def mount(self) -> None:
        """Returns when it answers."""
        self.begin()
        wait_for(self._answers, f"the mount to answer: {self.log()}")

    def begin(self) -> None:
        """Start the mount."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*program("mount.cbfs", self.url, self.path, "--foreground"), *self.options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"the mount ended: {self.log()}")
        return os.path.ismount(self.path)

    @property
    def pid(self) -> int:
        """Of the mount's process."""
        return self._process.pid if self._process else 0

    def child(self) -> int:
        """Of what it has in the place of ssh, which is a Python program; 0 for none."""
        for task in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in task.read_text().split():
                    if b"trap.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        return 0

    def ssh_pid(self) -> int:
        """Of the ssh that it has now; 0 for none."""
        for task in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in task.read_text().split():
                    if Path(f"/proc/{child}/comm").read_text().strip() == "ssh":
                        return int(child)
        return 0

    def log(self) -> str:
        """What its mount has said."""
        return self._log.read_text() if self._log.exists() else ""

    def status(self) -> str:
        """What status says."""
        return (self.path / "status").read_text()

    def waits(self) -> list[Path]:
        """What its spool has."""
        return sorted((self.place / "state").glob("cbfs/hubs/*/*/*.out"))

    def kill(self) -> None:
        """SIGKILL, and nothing is mounted any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT)
            self._process = None
        lazy = ["fusermount3", "-uz", str(self.path)]
        subprocess.run(lazy, check=False, stderr=subprocess.DEVNULL, timeout=WAIT)

    def unmount(self) -> int:
        """As a user does; the exit code."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        return process.wait(WAIT)

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()


@contextmanager
def sshd(place: Path, forced: str = "", path: str = str(SCRIPTS)) -> Iterator[Sshd]:
    """An sshd while the block runs."""
    served = Sshd(place, forced, path)
    try:
        yield served
    finally:
        served.close()


@contextmanager
def laptop(
    place: Path,
    account: Path,
    served: Sshd,
    network: Network | None = None,
    options: tuple[str, ...] = (),
) -> Iterator[Laptop]:
    """A machine that has mounted the account while the block runs."""
    port = network.port if network is not None else served.port
    machine = Laptop(place, account, served.client(place.name, port), options)
    try:
        machine.mount()
        yield machine
    except BaseException:
        sys.stderr.write(machine.log())
        raise
    finally:
        machine.close()


@contextmanager
def network_to(port: int, delay: float = 0.0) -> Iterator[Network]:
    """A network while the block runs."""
    made = Network(port, delay)
    try:
        yield made
    finally:
        made.close()


class Tapped:
    """In the place of ssh: the same command on this machine, whose two directions are written into
    files, in plain text as ssh has them before it encrypts."""

    def __init__(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        self.up, self.down = place / "up", place / "down"
        script = place / "ssh"
        words = f'tee -a {self.up} | sh -c "$command" | tee -a {self.down}'
        script.write_text(f"#!/bin/sh\nPATH={SCRIPTS}:$PATH\nfor command; do :; done\n{words}\n")
        script.chmod(0o700)
        self.command = str(script)

    def asked(self) -> list[str]:
        """The words that the hub was asked, in their order."""
        return [str(msgpack.unpackb(each)[1]) for each in Frames().add(self.up.read_bytes())]
