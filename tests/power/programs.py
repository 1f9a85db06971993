"""The real programs in a box, with their data on its disks, and what can be broken in them.

They are forked from a process that has loaded them already, which is quick; what runs is their
``main`` with its arguments."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lmdb

import cbfs.commands.init  # what is read in late is there before the power goes
import cbfs.commands.main
import cbfs.commands.mount.program
import cbfs.commands.mount.serving
import cbfs_host.lmdb_environment
import cbfs_server.cli
import cbfs_server.lmdb_store.room
from cbfs.storage.root_key import RootFile
from cbfs_common.names.note import SignatureLine, cosign, sign_checkpoint
from cbfs_names.commands.main import main as names_main
from cbfs_names.rounds import sequencer, verifier
from tests.power.acks import Acks
from tests.power.box import TOP, call, mount_image, spawn
from tests.support.world import make_easy, wait_for

NAMES, SERVER = "127.0.0.1:7701", "127.0.0.1:7700"


def _lmdb(**more: Any) -> None:
    lmdb.__dict__["open"] = partial(lmdb.open, **more)


def _no_fdatasync() -> None:
    os.fdatasync = lambda fd: None


def _no_erasure_sync() -> None:
    """The old key is overwritten, and nobody waits for the disk."""
    settle = RootFile.settle

    def settled(self: RootFile, generation: int) -> None:
        synced, os.fdatasync = os.fdatasync, lambda fd: None
        try:
            settle(self, generation)
        finally:
            os.fdatasync = synced

    RootFile.settle = settled  # type: ignore[method-assign]


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    path.mkdir(mode=0o700)
    yield path


def _stores_in_place() -> None:
    """As if each store were made where it is to be."""
    cbfs_host.lmdb_environment.__dict__["built"] = _in_place


CLIENTS = frozenset({"alice", "bob"})
ALL = CLIENTS | {"server", "names", "seq", "v1", "v2"}

FAULTS: dict[str, tuple[frozenset[str], Callable[[], None]]] = {
    "": (frozenset(), lambda: None),
    "client without sync": (CLIENTS, partial(_lmdb, sync=False)),
    "client without metasync": (CLIENTS, partial(_lmdb, metasync=False)),
    "server without sync": (frozenset({"server"}), partial(_lmdb, sync=False)),
    "names without sync": (frozenset({"names"}), partial(_lmdb, sync=False)),
    "directory without sync": (frozenset({"seq", "v1", "v2"}), partial(_lmdb, sync=False)),
    "root.key without fdatasync": (CLIENTS, _no_fdatasync),
    "erasure without fdatasync": (CLIENTS, _no_erasure_sync),
    "stores in place": (ALL, _stores_in_place),
}
"""What a control takes away, and from which programs; something must be lost by it."""


def _tell(acks: Acks) -> None:
    """Write down what a program does that others do not see."""
    settle, opened = RootFile.settle, lmdb.open

    def settled(self: RootFile, generation: int) -> None:
        settle(self, generation)
        acks.write(f"settled {self._path.parent.name}", str(generation))

    def cosigned(seed: bytes, name: str, now: int, text: bytes) -> SignatureLine:
        line = cosign(seed, name, now, text)
        acks.write("signed", " ".join([name, *text.decode().split()[1:3]]))
        return line

    def signed(seed: bytes, name: str, text: bytes) -> SignatureLine:
        line = sign_checkpoint(seed, name, text)
        acks.write("signed", " ".join(["log", *text.decode().split()[1:3]]))
        return line

    def opening(path: str | bytes, **more: Any) -> Any:
        """At that moment something else on the disk is synced."""
        env = opened(path, **more)
        other = Path(os.fsdecode(path)).parents[1] / "other"
        descriptor = os.open(other, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, b"x")
        os.fsync(descriptor)
        os.close(descriptor)
        acks.write("opened", os.fsdecode(path))
        return env

    RootFile.settle = settled  # type: ignore[method-assign]
    verifier.__dict__["cosign"] = cosigned
    sequencer.__dict__["sign_checkpoint"] = signed
    lmdb.__dict__["open"] = opening


@contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


class Programs:
    """Of one box. ``place`` gives the disk on which the data of each are."""

    def __init__(
        self,
        place: Callable[[str], Path],
        log: Path,
        fault: str = "",
        acks: Acks | None = None,
    ) -> None:
        """``acks`` is told what a program has done that others do not see."""
        self._place = place
        self._log = log
        self._fault = fault
        self._acks = acks

    def _main(
        self, who: str, main: Callable[..., object], *arguments: object
    ) -> Callable[[], object]:
        faulty, fault = FAULTS[self._fault]

        def run() -> object:
            small = {"RESERVE": 1 << 20, "RESERVE_STEP": 1 << 20}
            cbfs_server.lmdb_store.room.__dict__.update(small)  # as the disks are
            if who in faulty:
                fault()
            if self._acks is not None:
                _tell(self._acks)
            with _arguments(["program", *map(str, arguments)]):
                return main()

        return run

    def data(self, name: str) -> Path:
        return self._place(name) / name

    def names(self) -> str:
        """Start the name directory; its address."""
        data = self.data("names")
        options = ("--data", data, "--listen", NAMES, "--registration", "work:0", "--short", "3")
        main = self._main("names", names_main, *options)
        return spawn(main, self._log, first_line=True)

    def server(self) -> str:
        """Start the message server; its address."""
        data = self.data("server")
        options = ("--data", data, "--listen", SERVER, "--disk-free", "0M")
        main = self._main("server", cbfs_server.cli.main, *options)
        return spawn(main, self._log, first_line=True)

    def init(self, name: str, server: str) -> int:
        """Make an account; the exit code."""
        policy = self.data("names") / "policy"
        words = ("init", name, "--account", self.data(name), "--server", server)
        main = self._main(name, cbfs.commands.main.main, *words, "--names", policy, "--no-tor")
        return call(main, self._log)

    def accept(self, name: str) -> None:
        """Strangers are contacts at once."""
        make_easy(self.data(name))

    def mount(self, name: str) -> Path:
        """Mount an account; where. Raises AssertionError."""
        place = TOP / f"chat-{name}"
        place.mkdir(exist_ok=True)
        options = ("-o", "grace=0.1", "--no-tor")
        code = call(
            self._main(name, cbfs.commands.mount.program.main, self.data(name), place, *options),
            self._log,
        )
        if code != 0:
            raise AssertionError(f"{name} cannot be mounted: {code}")
        return place

    def tool(self, *words: object) -> str:
        """What ``cbfs-names`` prints as a tool."""
        out = self._log.with_name("tool")
        main = self._main("tool", names_main, *words)
        out.unlink(missing_ok=True)
        if call(main, out):
            raise AssertionError(out.read_text())
        return out.read_text()

    def role(self, name: str, listen: str, config: Path) -> str:
        """Start the sequencer or a verifier; its address."""
        kind = "--sequencer" if name == "seq" else "--verifier"
        words = (kind, "--data", self.data(name), "--config", config, "--listen", listen)
        return spawn(self._main(name, names_main, *words), self._log, first_line=True)


def attach(disks: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """The files of a directory, by number, as disks of the box."""
    return {name: mount_image(disks / str(number), name) for number, name in enumerate(names)}


def start_disks(journal: Path, base: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Disks that write down what is done to them, mounted."""
    place = TOP / "disks"
    place.mkdir()
    words = map(str, (journal, base, place, len(names)))
    command = [sys.executable, "-m", "tests.power.disk", *words]
    subprocess.Popen(command, cwd=Path(__file__).parents[2])
    wait_for(lambda: os.path.ismount(place) or None, "the disks")
    return attach(place, names)


def make_base(path: Path, size: int) -> None:
    """An empty ext4."""
    with path.open("wb") as file:
        file.truncate(size)
    extended = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E", extended, str(path)]
    subprocess.run(command, check=True, timeout=60)
