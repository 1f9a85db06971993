"""What a mount on another machine and its hub say to each other, and what the machine keeps: any
bytes give a value, or one of our errors."""

import errno
import os
import shlex
from contextlib import suppress
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import Any, cast

import msgpack
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.remote.cache import BLOCK, SealedCache
from cbfs.mount.remote.hub_view import _entries
from cbfs.mount.remote.link import ASK_MAX, WHOLE_MAX, AwayError, Pieces
from cbfs.mount.remote.nodes import RemoteTree, local_stat, path_of
from cbfs.mount.remote.spool import OutgoingSpool, WaitingFile
from cbfs.mount.remote.ssh.address import OPTIONS, read_address
from cbfs.mount.remote.wire import (
    ARGUMENTS,
    ID_SIZE,
    NEWS,
    PATH_MAX,
    PATH_NAMES_MAX,
    Stat,
    decode_stat,
    is_name,
    parts_of,
    read_hub_answer,
    read_hub_request,
    stays_inside,
)
from cbfs.mount.single.wire import Frames
from cbfs_common.errors import CbfsError, CryptoError, DecodeError

INT = st.integers(-(1 << 63), (1 << 63) - 1)
NATURAL = st.integers(0, (1 << 62) - 1)
MODES = st.builds(int.__or__, st.sampled_from([S_IFREG, S_IFDIR, S_IFLNK]), st.integers(0, 0o777))
LINKS = st.integers(0, (1 << 16) - 1)
IDS = st.sampled_from([b"", bytes(ID_SIZE)])
STATS = st.builds(Stat, NATURAL, MODES, LINKS, NATURAL, INT, INT, INT, st.booleans(), IDS)
VALUES = st.recursive(
    st.none() | st.booleans() | INT | st.binary(max_size=20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(STATS)
def test_a_stat_comes_back(stat: Stat) -> None:
    assert decode_stat(msgpack.unpackb(msgpack.packb(stat))) == stat


@given(VALUES)
def test_any_value_is_a_stat_or_refused(value: object) -> None:
    with suppress(DecodeError):
        assert decode_stat(value).size >= 0


@given(st.binary(max_size=80) | VALUES.map(msgpack.packb))
def test_any_bytes_are_words_or_refused(data: bytes) -> None:
    for read in (read_hub_request, read_hub_answer):
        with suppress(DecodeError):
            assert read(data).number >= 0


@given(st.sampled_from(sorted(ARGUMENTS)), st.lists(VALUES, max_size=7))
def test_arguments_are_of_their_types_or_refused(word: str, arguments: list[object]) -> None:
    try:
        request = read_hub_request(msgpack.packb([3, word, arguments]))
    except DecodeError:
        return
    assert [type(each) for each in request.arguments] == list(ARGUMENTS[word])
    if word in {"put", "part"}:
        assert len(request.arguments[0]) == ID_SIZE


@given(st.sampled_from(sorted(NEWS)), st.lists(VALUES, max_size=4))
def test_news_are_of_their_types_or_refused(word: str, rest: list[object]) -> None:
    try:
        answer = read_hub_answer(msgpack.packb([0, 0, [word, *rest]]))
    except DecodeError:
        return
    assert [type(each) for each in answer.result[1:]] == list(NEWS[word])


@pytest.mark.parametrize("path", [b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"a\0b", b"./a"])
def test_what_is_no_path_is_refused(path: bytes) -> None:
    with pytest.raises(DecodeError):
        parts_of(path)


def test_paths_have_an_end() -> None:
    assert parts_of(b"") == ()
    assert parts_of(b"a/b") == (b"a", b"b")
    for long in (b"a" * (PATH_MAX + 1), b"/".join([b"a"] * (PATH_NAMES_MAX + 1))):
        with pytest.raises(DecodeError):
            parts_of(long)


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"a/b", b"a\0", b"x" * 256, "ö".encode() * 128, b"\xff"]
)
def test_what_is_no_name_is_refused_wherever_a_hub_says_it(name: bytes) -> None:
    stat = list(local_stat(0o100600))
    assert not is_name(name)
    with pytest.raises(OSError) as caught:
        list(_entries([[[name, stat]]]))
    assert caught.value.errno == errno.EIO
    for told in (["moves", b"a", name], ["outdated", 5, name], ["goes", b"a/" + name + b"/b"]):
        if name == b"a/b" and told[0] == "goes":
            continue  # there it is two
        with pytest.raises(DecodeError):
            read_hub_answer(msgpack.packb([0, 0, told]))


def test_names_are_up_to_255_bytes() -> None:
    assert is_name(b"..a")
    assert is_name(b"x" * 255)
    assert is_name("ö".encode() * 127)


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        (b"outbox/bob", b"2026-bob", True),
        (b"outbox/bob", b"../tmp/x", True),
        (b"outbox/bob", b"../../home", False),
        (b"a", b"..", False),
        (b"a", b"b/../..", False),
        (b"a/b", b"/etc/passwd", False),
        (b"a/b", b"c\0d", False),
        (b"a/b", b"", False),
        (b"a/b/c", b"../.././x", True),
        # each of them inside; but `s` leads to `.`, so that behind it `..` is above
        (b"s", b".", True),
        (b"t", b"s/../x", False),
        (b"a/t", b"../s/../../x", False),
        (b"a/t", b"../s/./..", False),
    ],
)
def test_a_link_of_the_hub_leads_nowhere_else(path: bytes, target: bytes, inside: bool) -> None:
    assert stays_inside(path, target) == inside


def test_links_that_are_each_inside_lead_nowhere_else_together(tmp_path: Path) -> None:
    """What the kernel makes of all that is let through."""
    root = tmp_path / "mount"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    targets = {
        b"s": b".",
        b"up": b"a/b",
        b"t": b"s/../outside",
        b"a/u": b"../up/../../../outside",
        b"a/v": b"../s/../outside",
        b"a/b/w": b"../../t",
        b"a/b/x": b"../../up/./../../../outside",
    }
    for path, target in targets.items():
        if stays_inside(path, target):
            (root / os.fsdecode(path)).symlink_to(os.fsdecode(target))
    for path in targets:
        place = (root / os.fsdecode(path)).resolve()
        assert place.is_relative_to(root), path


@pytest.mark.parametrize(
    "news",
    [["goes", b""], ["appears", b"", [1]], ["moves", b"", b"x"], ["moves", b"a", b"../b"]],
)
def test_the_root_does_not_go_and_names_are_names(news: list[object]) -> None:
    with pytest.raises(DecodeError):
        read_hub_answer(msgpack.packb([0, 0, news]))


def test_no_news_go_through_a_symbolic_link() -> None:
    tree = RemoteTree(local_stat(0o40700))
    folder = tree.enter(tree.root, b"a", local_stat(0o40700), 1)
    link = tree.enter(folder, b"t", local_stat(0o120777), 1)
    tree.enter(folder, b"f", local_stat(0o100600), 1)
    tree.place(tree.staged(link, b"below", local_stat(0o100600)), link)
    assert tree.find(b"a/t") is link  # which may go itself
    assert tree.find(b"a/f/x") is None
    for find in (tree.find, tree.find_folder):
        with pytest.raises(DecodeError):
            find(b"a/t/below")
    with pytest.raises(DecodeError):
        tree.find_folder(b"a/t")


@pytest.mark.parametrize("mode", [0o60600, 0o20600, 0o140700, 0, 0o7777])
def test_a_device_is_no_file_of_a_hub(mode: int) -> None:
    with pytest.raises(DecodeError):
        decode_stat([1, mode, 1, 1, 1, 1, 1, False, b""])
    assert decode_stat([1, 0o106755, 1, 1, 1, 1, 1, False, b""]).mode == 0o102755


# answers without an end


class Asked:
    """A hub that answers with ``pieces``, for ever."""

    def __init__(self, *pieces: object) -> None:
        self._pieces = pieces
        self.count = 0

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    async def ask(self, *_words: object) -> None:
        pass

    async def answer(self, _latest: float) -> object:
        await trio.sleep(ASK_MAX - 1)
        self.count += 1
        return self._pieces[self.count % len(self._pieces)]


@pytest.mark.parametrize("piece", [[True, []], [True, [], b""], [True], [], 3])
def test_pieces_of_nothing_end_an_answer(piece: object) -> None:
    async def main() -> None:
        asked = Asked(piece)
        with pytest.raises(OSError) as caught:
            async for _ in Pieces(cast(Any, asked), "list", ()):
                pass
        assert caught.value.errno == errno.EIO
        assert asked.count == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_answer_that_goes_on_and_on_has_an_end() -> None:
    async def main() -> None:
        began = trio.current_time()
        with pytest.raises(AwayError):
            async for _ in Pieces(cast(Any, Asked([True, [1]])), "list", ()):
                pass
        assert trio.current_time() - began < WHOLE_MAX + ASK_MAX

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_answer_of_more_pieces_than_there_can_be_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cbfs.mount.remote.link.PIECES_MAX", 5)

    async def main() -> None:
        asked = Asked([True, [1]])
        with pytest.raises(OSError) as caught:
            async for _ in Pieces(cast(Any, asked), "list", ()):
                pass
        assert caught.value.errno == errno.EIO
        assert asked.count == 6

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_frames_have_the_end_that_is_said() -> None:
    with pytest.raises(DecodeError):
        list(Frames(100).add((101).to_bytes(4, "big")))
    assert list(Frames(100).add((1).to_bytes(4, "big") + b"x")) == [b"x"]


# addresses


@pytest.mark.parametrize(
    ("url", "host", "port", "account"),
    [
        ("ssh://home", "home", 0, ""),
        ("ssh://me@home.example:2222/chat", "me@home.example", 2222, "chat"),
        ("ssh://home//srv/chat", "home", 0, "/srv/chat"),
        ("ssh://[fe80::1%eth0]:22/a b", "fe80::1%eth0", 22, "a b"),
        ("ssh://abc.onion", "abc.onion", 0, ""),
    ],
)
def test_an_address_is_read(url: str, host: str, port: int, account: str) -> None:
    found = read_address(url)
    assert (found.host, found.port, found.account, found.url) == (host, port, account, url)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://-oProxyCommand=sh",
        "ssh://me@-oProxyCommand=sh",
        "ssh://-x@home",
        "ssh://home;id",
        "ssh://home id",
        "ssh://$(id)",
        "ssh://`id`/a",
        "ssh://",
        "ssh:///chat",
        "ssh://home:99999",
        "ssh://home:x",
        "ssh://home/-account",
        "ssh://home/a\nb",
        "ssh://home/a\0b",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(CbfsError):
        read_address(url)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.text(min_size=1))
def test_no_shell_finds_anything_in_a_name(account: str, only: str) -> None:
    try:
        command = read_address(f"ssh://home/{account}").command(only)
    except CbfsError:
        return
    assert command[:-3] == ["ssh", *OPTIONS]
    assert command[-3:-1] == ["--", "home"]
    words = shlex.split(command[-1])
    assert words == ["cbfs", "serve", f"--account={account}", f"--only={only}"]


def test_another_program_can_be_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBFS_SSH", "ssh -F 'my config'")
    command = read_address("ssh://home:99").command("")
    assert command[:3] == ["ssh", "-F", "my config"]
    assert command[-5:] == ["-p", "99", "--", "home", "cbfs serve"]


# what is kept


def test_the_cache_keeps_what_was_used_last_and_nothing_that_can_be_read(tmp_path: Path) -> None:
    cache = SealedCache(tmp_path, SYSTEM_RANDOM, most=4 * BLOCK)
    try:
        for index in range(4):
            cache.put(1, index, b"secret %d" % index * 100)
        assert cache.get(1, 0) == b"secret 0" * 100
        cache.put(2, 0, b"another" * 2_000)
        assert cache.get(1, 1) is None  # it was unused for longest
        assert cache.get(1, 0) == b"secret 0" * 100
        assert cache.get(2, 0) == b"another" * 2_000
        cache.forget(1)
        assert cache.get(1, 0) is None
        assert not os.listdir(tmp_path)  # noqa: PTH208 - it has no name
        with open(f"/proc/self/fd/{cache._file}", "rb") as file:  # noqa: PTH123
            data = file.read()
        assert len(data) > BLOCK // 2
        assert b"secret" not in data
        assert b"another" not in data
        os.pwrite(cache._file, bytes(len(data)), 0)
        assert cache.get(2, 0) is None  # what the disk has changed is not there
    finally:
        cache.close()


ALICE, MALLORY = b"a" * ID_SIZE, b"m" * ID_SIZE


def item(identity: bytes, content: bytes) -> WaitingFile:
    return WaitingFile(identity, b"outbox/bob/note", 0o600, 0, b"", False, len(content))


def test_the_spool_keeps_what_waits_sealed_and_for_one_mount(tmp_path: Path) -> None:
    spool = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    assert spool.open(ALICE) == []
    first, second = (item(spool.new_id(), text) for text in (b"first", b"second"))
    spool.save(first, b"first", 0)
    spool.save(second, b"second", 0)
    spool.save(second, b"anew!!", second.size)
    with pytest.raises(CbfsError, match="already"):
        OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path).open(ALICE)
    assert OutgoingSpool("ssh://home", "x", SYSTEM_RANDOM, tmp_path).open(ALICE) == []
    other = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    assert other.open(MALLORY) == []  # another account, at the same address
    assert other.others() == [(spool.path, 2)]
    assert spool.others() == []
    other.close()
    for path in spool.path.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert b"first" not in path.read_bytes()
    spool.close()
    again = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    assert again.open(ALICE) == [first, second]
    assert again.read(second.identity) == (second, b"anew!!")
    again.drop(first)
    (again.path / f"{first.identity.hex()}.out").write_bytes(
        (again.path / f"{second.identity.hex()}.out").read_bytes()
    )
    with pytest.raises(CryptoError):
        again.read(first.identity)  # a copy under another name
    again.close()
    third = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    assert third.open(ALICE) == [second]
    assert [path.suffix for path in third.path.glob("*.unreadable")] == [".unreadable"]
    third.close()


def test_a_key_that_goes_while_it_is_in_use_is_there_again_for_what_is_saved(
    tmp_path: Path,
) -> None:
    spool = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    spool.open(ALICE)
    (spool.path / "key").unlink()
    kept = item(spool.new_id(), b"text")
    spool.save(kept, b"text", 0)
    spool.close()
    again = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    assert again.open(ALICE) == [kept]
    assert not again.unreadable()
    again.close()


def test_nothing_that_was_put_aside_is_overwritten(tmp_path: Path) -> None:
    spool = OutgoingSpool("ssh://home", "", SYSTEM_RANDOM, tmp_path)
    spool.open(ALICE)
    name = f"{spool.new_id().hex()}.out"
    for number in range(3):
        (spool.path / name).write_bytes(b"%d" % number)
        spool.close()
        assert spool.open(ALICE) == []
    aside = [path.read_bytes() for path in spool.path.glob("*.out.unreadable")]
    assert sorted(aside) == [b"0", b"1", b"2"]
    assert spool.unreadable() == 3
    spool.close()


def test_nodes_keep_their_numbers_when_the_hub_has_begun_anew() -> None:
    tree = RemoteTree(local_stat(0o40700))
    folder = tree.enter(tree.root, b"conversations", local_stat(0o40700), 1)
    message = Stat(7, 0o100400, 1, 5, 10, 10, 10, True, b"")
    node = tree.enter(folder, b"note", message, 1)
    same = Stat(99, 0o100400, 1, 5, 10, 10, 10, True, b"")
    assert tree.enter(folder, b"note", same, 2) is node
    other = Stat(99, 0o100400, 1, 6, 11, 11, 11, True, b"")
    changed = tree.enter(folder, b"note", other, 2)
    assert changed is not node
    assert node.gone
    assert path_of(changed) == b"conversations/note"
    assert tree.inodes == {99: changed, 0: folder}
