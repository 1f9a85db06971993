"""One thread's random file operations, each done on the mount and on a plain directory."""

import ctypes
import errno
import mmap
import os
import stat
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

NAMES = 36
"""Of each worker in each folder: so many that a folder is read in several pieces."""

TAIL = "-" + "long" * 20
"""Of each name: the kernel asks for few at once then."""

SIZE = 60_000
DESCRIPTORS = 4
CHUNK = 1_500
"""Bytes of a folder that are read at once: some ten names."""

NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)
_HEAD = struct.Struct("=QqHB")


class Differs(Exception):
    """The two sides have given different answers."""


class Side:
    """One of the two: a folder, and what a worker has open in it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.open: dict[int, int] = {}

    def close(self) -> None:
        """Close what is open."""
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open.clear()


Do = Callable[[Side], object]


class Worker:
    """``counts``: operations, those that both refused, listings. ``mapped``: inodes that were
    written by mmap, whose times are the kernel's affair. ``flat``: no folders can be made."""

    def __init__(
        self, seed: str, number: int, sides: tuple[Side, Side], folders: list[str], *, flat: bool
    ) -> None:
        self.random = Random(seed)
        self.number = number
        self.sides = sides
        self.folders = folders
        self.log: deque[str] = deque(maxlen=40)
        self.counts = [0, 0, 0]
        self.mapped: set[int] = set()
        self.flat = flat
        self._deep = self._name(NAMES)

    def steps(self, count: int) -> None:
        """Raises Differs."""
        choices = (
            *(self._write, self._write, self._write, self._append, self._read, self._truncate),
            *(self._make, self._stat, self._rename, self._rename, self._keep, self._keep),
            *(self._use, self._use, self._use, self._link, self._unlink, self._unlink),
            *(self._symlink, self._chmod, self._utime, self._map, self._list, self._copy_over),
            *(() if self.flat else (self._mkdir, self._rmdir)),
        )
        for _ in range(count):
            self.random.choice(choices)()

    def fill(self) -> None:
        """All names in all folders, so that a listing takes several pieces; and a folder in each,
        if there can be one, with second names of some of them: those of one file are then in
        folders of different depths."""
        for folder in self.folders:
            for number in range(0, NAMES, 2):
                self._put(f"{folder}/{self._name(number)}", b"first")
            if not self.flat:
                self._deepen(folder)

    def _deepen(self, folder: str) -> None:
        deep = f"{folder}/{self._deep}"
        self.both(f"mkdir {deep}", lambda side: (side.base / deep).mkdir())
        for number in range(0, NAMES, 6):
            name = self._name(number)

            def do(side: Side, name: str = name) -> None:
                (side.base / deep / name).hardlink_to(side.base / folder / name)

            self.both(f"link {folder}/{name} {deep}/{name}", do)

    # within

    def _name(self, number: int) -> str:
        return f"w{self.number}-{number}{TAIL}"

    def _path(self) -> str:
        """A name of this worker's, now and then in what may be a folder of its own."""
        parts = [self.random.choice(self.folders), self._name(self.random.randrange(NAMES))]
        chance = self.random.random()
        if chance < 0.2:
            parts.append(self._name(self.random.randrange(4)))
        elif chance < 0.4 and not self.flat:
            parts.insert(1, self._deep)
        return "/".join(parts)

    def both(self, what: str, do: Do) -> object:
        """Do it on both sides; what it gave. Raises Differs."""
        self.log.append(what)
        self.counts[0] += 1
        plain, mount = (self._try(do, side) for side in self.sides)
        if plain != mount:
            short = [repr(each)[:200] for each in (plain, mount)]
            raise Differs(f"{what}: plain {short[0]}, mount {short[1]}; {self._log()}")
        self.counts[1] += isinstance(plain, str)
        return plain

    def _log(self) -> str:
        return "; ".join(self.log).replace(TAIL, "")

    def _try(self, do: Do, side: Side) -> object:
        try:
            found = do(side)
        except OSError as error:
            return f"errno {errno.errorcode[error.errno or 0]}"
        return None if isinstance(found, Path) else found

    def _put(self, path: str, data: bytes) -> None:
        def do(side: Side) -> object:
            return (side.base / path).write_bytes(data)

        self.both(f"put {path}", do)

    def _write(self) -> None:
        path, offset = self._path(), self.random.randrange(SIZE)
        data = self.random.randbytes(self.random.choice((1, 100, 4096, 20_000)))
        flags = os.O_WRONLY | self.random.choice((0, os.O_CREAT, os.O_CREAT | os.O_TRUNC))

        def do(side: Side) -> object:
            descriptor = os.open(side.base / path, flags, 0o644)
            try:
                return os.pwrite(descriptor, data, offset)
            finally:
                os.close(descriptor)

        self.both(f"write {path} {flags} {offset} {len(data)}", do)

    def _append(self) -> None:
        path, data = self._path(), self.random.randbytes(500)

        def do(side: Side) -> object:
            with (side.base / path).open("ab") as file:
                return file.write(data)

        self.both(f"append {path}", do)

    def _make(self) -> None:
        path, mode = self._path(), self.random.choice((0o600, 0o644, 0o444, 0o777))
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY

        def do(side: Side) -> None:
            os.close(os.open(side.base / path, flags, mode))

        self.both(f"make {path} {mode:o}", do)

    def _read(self) -> None:
        path = self._path()
        self.both(f"read {path}", lambda side: (side.base / path).read_bytes())

    def _truncate(self) -> None:
        path, size = self._path(), self.random.randrange(SIZE)
        self.both(f"truncate {path} {size}", lambda side: os.truncate(side.base / path, size))

    def _stat(self) -> None:
        path = self._path()
        self.both(f"stat {path}", lambda side: told((side.base / path).lstat()))

    def _rename(self) -> None:
        old, new = self._path(), self._path()
        flags = self.random.choice((0, 0, NOREPLACE))

        def do(side: Side) -> object:
            paths = [os.fsencode(side.base / path) for path in (old, new)]
            if _libc.renameat2(-100, paths[0], -100, paths[1], flags) != 0:
                raise OSError(ctypes.get_errno(), "renameat2")
            return told((side.base / new).lstat())

        self.both(f"rename {old} {new} {flags}", do)

    def _copy_over(self) -> None:
        """As editors save: a new file, renamed over."""
        path = self._path()
        self._put(f"{path}~", self.random.randbytes(300))
        self.both(f"over {path}", lambda side: (side.base / f"{path}~").replace(side.base / path))
        self.both(f"drop {path}~", lambda side: (side.base / f"{path}~").unlink())

    def _link(self) -> None:
        old, new = self._path(), self._path()

        def do(side: Side) -> object:
            os.link(side.base / old, side.base / new, follow_symlinks=False)
            return told((side.base / new).lstat())

        self.both(f"link {old} {new}", do)

    def _unlink(self) -> None:
        path = self._path()
        self.both(f"unlink {path}", lambda side: (side.base / path).unlink())

    def _mkdir(self) -> None:
        path, mode = self._path(), self.random.choice((0o755, 0o700))
        self.both(f"mkdir {path}", lambda side: (side.base / path).mkdir(mode))

    def _rmdir(self) -> None:
        path = self._path()

        def do(side: Side) -> object:
            held = os.open(side.base / path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                (side.base / path).rmdir()
                return os.fstat(held).st_nlink
            finally:
                os.close(held)

        self.both(f"rmdir {path}", do)

    def _symlink(self) -> None:
        path, target = self._path(), self._name(self.random.randrange(NAMES))
        self.both(f"symlink {path}", lambda side: (side.base / path).symlink_to(target))

    def _chmod(self) -> None:
        path, mode = self._path(), self.random.choice((0o600, 0o640, 0o755, 0o400, 0o2775))
        self.both(f"chmod {path} {mode:o}", lambda side: (side.base / path).chmod(mode))

    def _utime(self) -> None:
        path, when = self._path(), self.random.randrange(10**18)

        def do(side: Side) -> None:
            if not (side.base / path).is_dir():  # those of folders must not go back
                os.utime(side.base / path, ns=(when, when), follow_symlinks=False)

        self.both(f"utime {path} {when}", do)

    def _map(self) -> None:
        path, at = self._path(), self.random.random()
        data = self.random.randbytes(3_000)

        def do(side: Side) -> object:
            descriptor = os.open(side.base / path, os.O_RDWR)
            try:
                size = os.fstat(descriptor).st_size
                if not size:
                    return None
                with mmap.mmap(descriptor, size) as view:
                    before = view[:]
                    start = int(at * size)
                    view[start : start + len(data)] = data[: size - start]
                    view.flush()
                self.mapped.add(os.fstat(descriptor).st_ino)
                return before
            finally:
                os.close(descriptor)

        self.both(f"map {path}", do)

    # what is kept open

    def _keep(self) -> None:
        slot, path = self.random.randrange(DESCRIPTORS), self._path()
        flags = os.O_RDWR | self.random.choice((0, os.O_CREAT, os.O_APPEND, os.O_TRUNC))

        def do(side: Side) -> object:
            if slot in side.open:
                os.close(side.open.pop(slot))
            side.open[slot] = os.open(side.base / path, flags, 0o600)
            return told(os.fstat(side.open[slot]))

        self.both(f"keep {slot} {path} {flags}", do)

    def _use(self) -> None:
        slot = self.random.randrange(DESCRIPTORS)
        offset, data = self.random.randrange(SIZE), self.random.randbytes(700)
        kind = self.random.choice(("write", "read", "truncate", "stat", "sync", "chmod"))

        def do(side: Side) -> object:
            descriptor = side.open.get(slot)
            if descriptor is None:
                return None
            if kind == "write":
                os.pwrite(descriptor, data, offset)
            elif kind == "truncate":
                os.ftruncate(descriptor, offset)
            elif kind == "sync":
                os.fsync(descriptor)
            elif kind == "chmod":
                os.fchmod(descriptor, 0o660)
            elif kind == "read":
                return os.pread(descriptor, 2 * SIZE, 0)
            return told(os.fstat(descriptor))

        self.both(f"use {slot} {kind} {offset}", do)

    # listings

    def _list(self) -> None:
        """Read a folder in pieces and change it meanwhile, on the mount; what is changed is
        changed on the plain side, too, and so is what is written afterwards. Each name of this
        worker's that was there throughout must be seen once, and no name twice."""
        self.counts[2] += 1
        folder = self.random.choice(self.folders)
        plain, mount = self.sides
        own = {path.name for path in (plain.base / folder).iterdir() if self._is_own(path.name)}
        touched: set[str] = set()
        seen: list[str] = []
        places = [0]
        descriptor = os.open(mount.base / folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while entries := read_some(descriptor):
                for place, name in entries:
                    places.append(place)
                    seen.append(name)
                if self.random.random() < 0.6:
                    touched |= self._change(folder)
                if self.random.random() < 0.1:  # go back to a place that was told
                    index = self.random.randrange(len(places))
                    os.lseek(descriptor, places[index], os.SEEK_SET)
                    del places[index + 1 :], seen[index:]
        finally:
            os.close(descriptor)
        missing = own - touched - set(seen)
        twice = {name for name in seen if seen.count(name) > 1}
        if missing or twice:
            told_of = f"missing {sorted(missing)[:3]}, twice {sorted(twice)[:3]}"
            raise Differs(f"list {folder}: {told_of}; {self._log()}")
        for name in sorted(touched):
            self._put(f"{folder}/{name}", self.random.randbytes(50))

    def _is_own(self, name: str) -> bool:
        return name.startswith(f"w{self.number}-")

    def _change(self, folder: str) -> set[str]:
        names = [self._name(self.random.randrange(NAMES)) for _ in range(2)]
        one, other = (f"{folder}/{name}" for name in names)
        kind = self.random.choice(("unlink", "rename", "put", "anew"))
        if kind in {"unlink", "anew"}:
            self.both(f"unlink {one}", lambda side: (side.base / one).unlink())
        if kind in {"put", "anew"}:
            self._put(one, b"put")
        if kind == "rename":
            self.both(f"rename {one} {other}", lambda s: (s.base / one).replace(s.base / other))
        return set(names)


def told(status: os.stat_result) -> tuple[int, ...]:
    """What must be the same on both sides."""
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_nlink, size


def read_some(descriptor: int) -> list[tuple[int, str]]:
    """The next entries of a folder: (the place behind it, its name), without . and .."""
    while True:
        buffer = ctypes.create_string_buffer(CHUNK)
        count = _libc.getdents64(descriptor, buffer, CHUNK)
        if count < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        found, at = [], 0
        while at < count:
            _inode, place, length, _kind = _HEAD.unpack_from(buffer.raw, at)
            name = buffer.raw[at + 19 : at + length].split(b"\0", 1)[0].decode()
            if name not in {".", ".."}:
                found.append((place, name))
            at += length
        if found or not count:
            return found
