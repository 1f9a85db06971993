"""``.venv/bin/python -m tests.bench.pages``: the pages that each commit of a message writes, by the
tree of LMDB that they are of, at the sender, the server and the recipient.

strace takes down what is written into LMDB's files, with the bytes. Written onto a copy of the file
as it was before, that gives the file as it was after each commit, of which all pages are visited.
"""

import re
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cbfs.storage.key_tree import node_level
from cbfs.storage.lmdb_pages import HEADER, Pages, PageTree, offsets, tree_of
from cbfs.storage.tables import WHOLE, table_at
from tests.bench.mounts import Watch, folder_of, say
from tests.bench.writes import PAGE, SETTLED, three

BRANCH = 1
BIG, SUBTREE = 1, 2
NO_PAGE = (1 << 64) - 1
WARM = 60
"""Messages before those that are looked at."""

STRACE = ("strace", "-Dfqqy", "-xx", "-s1000000", "--seccomp-bpf")
CALLS = ("write", "writev", "pwrite64", "pwritev", "lseek", "fsync", "fdatasync")

_CALL = re.compile(rb"(\d+) +(\w+)\(\d+<([^>]*)>, (.*?)(?:\)? += (\d+)| <unfinished \.\.\.>)$")
_SYNC = re.compile(rb"(\d+) +(fsync|fdatasync)\(\d+<([^>]*)>")
_BYTES = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')
_PLACE = re.compile(rb", (\d+)\)?$")


class Image(Pages):
    """A file of LMDB's, in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def read(self, place: int, size: int) -> bytes:
        return bytes(self.data[place : place + size])

    def write(self, place: int, data: bytes) -> None:
        missing = place + len(data) - len(self.data)
        self.data += bytes(max(0, missing))
        self.data[place : place + len(data)] = data

    def trees(self) -> dict[int, str]:
        """The tree, and what it is of it, of each page that counts."""
        meta = self.metas()[0]
        found: dict[int, str] = {}
        self._visit("(free)", meta.free, found)
        for page in self._visit("(first)", meta.records, found):
            for offset in offsets(page):
                _size, flags, key_size = struct.unpack_from("=IHH", page, offset)
                start = offset + 8
                if flags & SUBTREE:
                    name = page[start : start + key_size].decode()
                    self._visit(name, tree_of(page, start + key_size), found)
        return found

    def _visit(self, name: str, tree: PageTree, found: dict[int, str]) -> list[bytes]:
        """Its leaves; ``found`` gets the pages."""
        leaves: list[bytes] = []
        todo = [] if tree.root == NO_PAGE else [tree.root]
        while todo:
            number = todo.pop()
            page = self.read(number * PAGE, PAGE)
            flags = struct.unpack_from("=H", page, 10)[0]
            if flags & BRANCH:
                found[number] = f"{name} branch"
                for offset in offsets(page):
                    low, middle, high, _size = struct.unpack_from("=HHHH", page, offset)
                    todo.append(low | middle << 16 | high << 32)
                continue
            found[number] = _records(page) or name
            for offset in offsets(page):
                size, kind, key_size = struct.unpack_from("=IHH", page, offset)
                if kind & BIG:
                    (first,) = struct.unpack_from("=Q", page, offset + 8 + key_size)
                    for page_number in range(first, first + -(-(size + HEADER) // PAGE)):
                        found[page_number] = f"{found[number]} value"
            leaves.append(page)
        return leaves


def _records(page: bytes) -> str:
    """What is in a leaf of a client's store; empty for any other leaf."""
    found: set[str] = set()
    for offset in offsets(page):
        _size, _flags, key_size = struct.unpack_from("=IHH", page, offset)
        key = page[offset + 8 : offset + 8 + key_size]
        table = table_at(key)
        if table is not None:
            found.add("records of whole tables" if table in WHOLE else table.value.decode())
        elif node_level(key) is not None:
            found.add("tree of keys")
    return ", ".join(sorted(found))


@dataclass
class Side:
    """One of the three: its log and its file, as it was when ``begin`` was called."""

    name: str
    log: Path
    file: Path

    def begin(self) -> None:
        self.image = Image(self.file.read_bytes())
        self.start = self.log.stat().st_size

    def commits(self) -> Iterator[Counter[str]]:
        """What each has written; beside pages, flushes of other files."""
        found: Counter[str] = Counter()
        pages: set[int] = set()
        places: dict[bytes, int] = {}
        for path, call, data, place in self._calls(places):
            if path != self.file:
                if call in ("fsync", "fdatasync"):
                    found[f"[flush {path.name}]"] += 1
                elif call != "lseek":
                    found[f"[write {path.name}]"] += 1
                continue
            if call in ("fsync", "fdatasync"):
                continue
            self.image.write(place, data)
            if place >= 2 * PAGE:
                pages |= set(range(place // PAGE, (place + len(data) + PAGE - 1) // PAGE))
                continue
            trees = self.image.trees()
            found.update(trees.get(page, "(unused)") for page in pages)
            yield found
            found, pages = Counter(), set()
        if found:
            yield found

    def _calls(self, places: dict[bytes, int]) -> Iterator[tuple[Path, str, bytes, int]]:
        with self.log.open("rb") as log:
            log.seek(self.start)
            for ended in log:
                line = ended.rstrip(b"\n")
                if found := _SYNC.match(line):
                    yield Path(_text(found[3])), found[2].decode(), b"", 0
                    continue
                found = _CALL.match(line)
                if not found:
                    continue
                path, call = Path(_text(found[3])), found[2].decode()
                if not path.is_relative_to(self.log.parent):
                    continue
                if call == "lseek":
                    places[found[1]] = int(found[4].split(b",")[0])
                    continue
                data = b"".join(
                    bytes.fromhex(part[1].replace(b"\\x", b"").decode())
                    for part in _BYTES.finditer(found[4])
                )
                place = places.get(found[1], 0)
                if call.startswith("p") and (at := _PLACE.search(found[4])):
                    place = int(at[1])
                yield path, call, data, place


def _text(data: bytes) -> str:
    """A path: with -xx strace writes these so as well."""
    if data.startswith(b"\\x"):
        return bytes.fromhex(data.replace(b"\\x", b"").decode()).decode()
    return data.decode()


def main() -> int:
    """The entry point."""
    words = (*STRACE, f"-etrace={','.join(CALLS)}")
    with three(words) as sides:
        seen = Watch(folder_of(sides.bob))
        warm = int(sys.argv[1]) if len(sys.argv) > 1 else WARM
        for number in range(warm):
            say(sides.alice, seen, number)
        time.sleep(SETTLED)
        looked = [Side(each.name, each.log, each.file) for each in sides.all]
        for side in looked:
            side.begin()
        say(sides.alice, seen, warm)
        time.sleep(SETTLED)
        for side in looked:
            for number, found in enumerate(side.commits(), 1):
                total = sum(n for what, n in found.items() if not what.startswith("["))
                print(f"{side.name}, commit {number}: {total} pages")
                for what, count in sorted(found.items()):
                    print(f"    {count:3}  {what}")
        seen.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
