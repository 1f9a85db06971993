"""What a hub that lies, or a machine that has no business there, can make the other side keep: so
many bytes, and not only so many things."""

import errno
import stat
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cbfs.mount.remote import hub_view, nodes
from cbfs.mount.remote.hub_view import ATTRIBUTES_MAX
from cbfs.mount.remote.nodes import RemoteTree, local_stat
from cbfs.mount.remote.wire import PART, PATH_MAX, REQUEST_PART_MAX, read_hub_request
from cbfs_common.errors import DecodeError
from tests.support.remote_machine import FOLDER, Machine, refused, run

FILE = local_stat(stat.S_IFREG | 0o600)
LINK = local_stat(stat.S_IFLNK | 0o777)


class Pages:
    """An answer of these pages."""

    def __init__(self, *pages: list[Any]) -> None:
        self._pages = pages
        self.taken = 0

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __aiter__(self) -> "Pages":
        return self

    async def __anext__(self) -> list[Any]:
        if self.taken == len(self._pages):
            raise StopAsyncIteration
        self.taken += 1
        return [self._pages[self.taken - 1]]


def test_a_listing_ends_where_its_names_are_too_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_view, "NAMES_BYTES_MAX", 1_000)
    page = [[b"%0200d" % number, list(FILE)] for number in range(4)]
    pages = Pages(*([page] * 50))

    async def body(machine: Machine) -> None:
        machine.link.pieces = lambda *_words: pages  # type: ignore[attr-defined]
        with refused(errno.EIO):
            await machine.view.list_anew(machine.bob)
        assert pages.taken == 2
        assert not machine.bob.entries

    run(tmp_path, body)


def test_names_that_are_known_have_bytes_for_all_that_are_there_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "NAMES_BYTES_MAX", 1_000)
    tree = RemoteTree(FOLDER)
    for number in range(10):
        tree.enter(tree.root, b"%0100d" % number, FILE, 1)
    with refused(errno.ENOMEM):
        tree.enter(tree.root, b"x", FILE, 1)
    node = tree.root.entries[b"%0100d" % 3]
    tree.move(node, tree.root, b"short")
    tree.enter(tree.root, b"%095d" % 0, FILE, 1)
    with refused(errno.ENOMEM):
        tree.enter(tree.root, b"x", FILE, 1)
    other = tree.root.entries[b"%0100d" % 4]
    other.lookups = 1
    tree.remove(other)
    with refused(errno.ENOMEM):  # a kernel still knows it
        tree.enter(tree.root, b"x", FILE, 1)
    tree.forget(other.number, 1)
    tree.enter(tree.root, b"y" * 100, FILE, 1)
    tree.remove(tree.root.entries[b"y" * 100])  # no kernel knows it
    tree.enter(tree.root, b"z" * 100, FILE, 1)
    with refused(errno.ENOMEM):
        tree.enter(tree.root, b"x", FILE, 1)


@pytest.mark.parametrize(
    "found",
    [
        {"user.x": "x" * ATTRIBUTES_MAX},
        {f"user.{number}": "" for number in range(10_000)},
        {"user.x": b"x"},
        {3: "x"},
    ],
)
def test_attributes_have_as_many_bytes_as_there_may_be(found: object, tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        async def ask(*_words: object) -> object:
            return found

        machine.link.ask = ask  # type: ignore[method-assign]
        node = machine.tree.enter(machine.bob, b"note", FILE, 1)
        with refused(errno.EIO):
            await machine.view.attributes(node)
        assert node.attributes is None

    run(tmp_path, body)


def test_of_attributes_and_targets_those_are_kept_that_were_told_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_view, "KEPT_BYTES_MAX", 10_000)

    async def body(machine: Machine) -> None:
        async def ask(word: str, *_words: object) -> object:
            return {"user.x": "x" * 3_000} if word == "xattrs" else b"y" * 3_000

        machine.link.ask = ask  # type: ignore[assignment, method-assign]
        files = [machine.tree.enter(machine.bob, b"%d" % at, FILE, 1) for at in range(5)]
        links = [machine.tree.enter(machine.bob, b"l%d" % at, LINK, 1) for at in range(2)]
        for each in files:
            assert await machine.view.attributes(each)
        assert [each.attributes is not None for each in files] == [False] * 2 + [True] * 3
        for each in links:
            assert await machine.view.read_link(each)
        assert [each.attributes is not None for each in files] == [False] * 4 + [True]
        assert [each.target is not None for each in links] == [True] * 2

    run(tmp_path, body)


def test_where_a_link_leads_is_not_kept_where_it_is_no_path(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        async def ask(*_words: object) -> object:
            return b"x" * (PATH_MAX + 1)

        machine.link.ask = ask  # type: ignore[method-assign]
        node = machine.tree.enter(machine.bob, b"link", LINK, 1)
        with refused(errno.EIO):
            await machine.view.read_link(node)
        assert not node.target

    run(tmp_path, body)


@pytest.mark.parametrize(
    "request_",
    [
        ["stat", [b"x" * (REQUEST_PART_MAX + 1)]],
        ["symlink", [b"tmp/a", b"x" * (REQUEST_PART_MAX + 1)]],
        ["part", [bytes(16), 0, b"x" * (PART + 1)]],
    ],
)
def test_a_machine_that_asks_with_more_bytes_than_there_can_be_is_not_answered(
    request_: list[Any],
) -> None:
    with pytest.raises(DecodeError):
        read_hub_request(msgpack.packb([3, *request_]))
    word, arguments = request_
    *first, last = arguments
    fits = last[:PART] if word == "part" else last[:REQUEST_PART_MAX]
    assert read_hub_request(msgpack.packb([3, word, [*first, fits]])).word == word
