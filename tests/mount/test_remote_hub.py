"""What the hub does for a mount on another machine, in one process: one transaction holds what must
be true together, and no link keeps a place that it does not use."""

import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.remote.files import UPLOADS_MAX, HandedParts, HubFiles
from cbfs.mount.remote.session import SILENT_MAX, HubSession, _HubWords, _Registered
from cbfs.mount.remote.wire import ID_SIZE, PATH_MAX
from cbfs.mount.single.wire import Frames, FrameSender, SingleRequest
from cbfs.storage.encoding import u64
from cbfs.storage.store import CannotWrite, Meta, Reader, Table
from cbfs.tree.changes import Changes
from cbfs.tree.nodes import Failure, File, Folder, decode_record
from cbfs.tree.rules import TreeError
from cbfs_common.errors import DecodeError
from cbfs_common.limits import FILE_NAME_MAX
from tests.tree.test_arriving import DATA, HERE, arriving
from tests.tree.test_tree import Mount, run

FIRST, SECOND, THIRD = (bytes([number]) * ID_SIZE for number in (1, 2, 3))


class Hub:
    """The files of one link, in ``mount``."""

    def __init__(self, mount: Mount, place: Path) -> None:
        self.mount = mount
        self._place = place
        self.uploads = HandedParts()
        self.files = self.link()

    def link(self) -> HubFiles:
        """The files of another link."""
        view = self.mount.view
        return HubFiles(view, self._place, self.uploads.of(b""), None, lambda inode: inode)

    async def put(
        self,
        identity: bytes,
        path: bytes,
        content: bytes,
        *,
        modified: int = 0,
        conversation: bytes = b"",
        replace: bool = False,
        before: bytes = b"",
    ) -> list[Any]:
        await self.files.part(identity, 0, content)
        told = path, 0o640, modified, len(content), conversation, replace, before
        return await self.files.put(identity, *told)

    def notes(self) -> list[bytes]:
        with self.mount.tree.backend.store.read() as reader:
            return [key[len(Meta.HANDED) :] for key, _ in reader.items(Table.META, Meta.HANDED)]

    def drafts(self) -> dict[str, bytes]:
        return {
            name: self.mount.read(node)
            for folder in self.mount.tree.outbox.entries.values()
            if isinstance(folder, Folder)
            for name, node in folder.entries.items()
            if isinstance(node, File)
        }


def hub(place: Path, body: Callable[[Hub], Awaitable[None]]) -> None:
    async def main(mount: Mount) -> None:
        await body(Hub(mount, place))

    run(place, main, grace=1_000.0)  # nothing is sent meanwhile


LATER = time.time_ns() + 10**18


def test_a_draft_its_time_and_its_note_are_one_commit(tmp_path: Path) -> None:
    """Else a kill between them sends at once what was to wait, or loses it."""

    async def body(hub: Hub) -> None:
        store = hub.mount.tree.backend.store
        commit, seen = store.commit, list[int]()

        def noted(reader: Reader) -> None:
            if reader.get(Table.META, Meta.HANDED + FIRST) is None:
                return
            (file,) = (
                node
                for folder in hub.mount.tree.outbox.entries.values()
                if isinstance(folder, Folder)
                for node in folder.entries.values()
                if isinstance(node, File)
            )
            record = reader.get(Table.NODES, u64(file.inode)) or b""
            seen.append(decode_record(file.inode, record)[0].mtime_ns)

        async def watched(*arguments: Any, **words: Any) -> Any:
            result = await commit(*arguments, **words)
            with store.read() as reader:
                noted(reader)
            return result

        store.commit = watched  # type: ignore[method-assign]
        await hub.put(FIRST, b"outbox/bob/note", b"for later", modified=LATER)
        store.commit = commit  # type: ignore[method-assign]
        assert seen
        assert seen[0] == LATER  # at the first moment at which it is known to be there
        assert await hub.put(FIRST, b"outbox/bob/note", b"for later", modified=LATER) == []

    hub(tmp_path, body)


def test_what_the_disk_does_not_take_is_not_known_to_be_there(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        contents = hub.mount.tree.contents
        save = contents.save

        async def fails(*_arguments: Any, **_words: Any) -> None:
            raise CannotWrite("the disk is full", "make room")

        contents.save = fails  # type: ignore[method-assign]
        with pytest.raises(CannotWrite):
            await hub.put(FIRST, b"outbox/bob/note", b"text", modified=LATER)
        contents.save = save  # type: ignore[method-assign]
        assert not hub.notes()
        assert not hub.drafts()
        assert await hub.put(FIRST, b"outbox/bob/note", b"text") != []
        assert hub.drafts() == {"note": b"text"}

    hub(tmp_path, body)


@pytest.mark.parametrize("fails", ["commit", "read"])
@pytest.mark.parametrize("there", [False, True])
def test_what_fails_is_sent_once_when_it_is_handed_over_again(
    there: bool, fails: str, tmp_path: Path
) -> None:
    """Where no commit is taken, the name as well cannot be taken back on the disk."""

    async def body(hub: Hub) -> None:
        store = hub.mount.tree.backend.store
        before = b""
        if there:
            await hub.put(FIRST, b"outbox/bob/note", b"old")
            before = FIRST
        else:
            await hub.files.mkdir(b"outbox/bob", 0o700)

        def fail(*_arguments: Any, **_words: Any) -> Any:
            raise CannotWrite("the disk is full", "make room")

        with pytest.MonkeyPatch.context() as patch, pytest.raises(CannotWrite):
            if fails == "commit":
                patch.setattr(store, "commit", fail)
            else:
                patch.setattr(hub.mount.tree.contents, "read", fail)
            await hub.put(SECOND, b"outbox/bob/note", b"text", before=before)
        assert SECOND not in hub.notes()
        (folder,) = (f for f in hub.mount.tree.outbox.entries.values() if isinstance(f, Folder))
        files = [node for node in folder.entries.values() if isinstance(node, File)]
        if there:  # neither what was to be replaced, nor a part of what was to come
            assert [file.failure for file in files] == [Failure.WRITE]
        else:
            assert not files
        assert await hub.put(SECOND, b"outbox/bob/note", b"text", before=before) != []
        assert hub.drafts() == {"note": b"text"}
        assert await hub.put(SECOND, b"outbox/bob/note", b"text", before=before) == []
        (file,) = (node for node in folder.entries.values() if isinstance(node, File))
        assert file.failure is Failure.NONE

    hub(tmp_path, body)


def test_what_somebody_else_stores_meanwhile_is_known_to_be_there_as_a_whole(
    tmp_path: Path,
) -> None:
    async def body(hub: Hub) -> None:
        contents = hub.mount.tree.contents
        save = contents.save

        async def another(file: File, **words: Any) -> None:
            await save(file, whole=False)  # as fsync(2) of a program at the hub
            assert not hub.notes()
            await save(file, **words)

        contents.save = another  # type: ignore[method-assign]
        await hub.put(FIRST, b"outbox/bob/note", b"text")
        contents.save = save  # type: ignore[method-assign]
        assert hub.notes() == [FIRST]
        assert hub.drafts() == {"note": b"text"}

    hub(tmp_path, body)


def test_what_is_refused_for_what_it_says_is_not_known_to_be_there(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        with pytest.raises(TreeError) as caught:
            await hub.put(FIRST, b"config.toml", b"nonsense = 3\n", replace=True)
        assert caught.value.errno == errno.EINVAL
        assert not hub.notes()

    hub(tmp_path, body)


LONG = b"x" * (FILE_NAME_MAX + 1)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"", errno.EINVAL),
        (b".", errno.EINVAL),
        (b"..", errno.EINVAL),
        (b"a\0b", errno.EINVAL),
        (LONG, errno.ENAMETOOLONG),
        ("ö".encode() * 128, errno.ENAMETOOLONG),
        (b"\xff", errno.EILSEQ),
    ],
)
def test_what_is_no_name_is_refused_in_every_word(name: bytes, number: int, tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        files = hub.files
        await files.mkdir(b"outbox/bob", 0o700)
        await hub.put(FIRST, b"tmp/there", b"text")
        path = b"tmp/" + name
        acts: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: hub.put(SECOND, b"outbox/bob/" + name, b"text"),
            lambda: hub.put(SECOND, b"outbox/" + name + b"/note", b"text"),
            lambda: hub.put(SECOND, path, b"text"),
            lambda: files.mkdir(path, 0o700),
            lambda: files.symlink(path, b"there"),
            lambda: files.rename(b"tmp/there", path, True),
            lambda: files.rename(path, b"tmp/other", True),
            lambda: files.unlink(path),
            lambda: files.rmdir(path),
            lambda: files.node(path),
        )
        for act in acts:
            with pytest.raises((OSError, TreeError, DecodeError)) as caught:
                await act()
            assert getattr(caught.value, "errno", errno.EINVAL) == number
        assert not hub.notes()
        assert not hub.drafts()
        assert list(hub.mount.tree.tmp.entries) == ["there"]

    hub(tmp_path, body)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0"])
def test_the_tree_itself_has_nothing_under_what_is_no_name(name: str, tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        tree = hub.mount.tree
        changes = Changes(tree)
        file = changes.create(tree.tmp, "there", 0o600, None)
        acts: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: changes.mkdir(tree.tmp, name),
            lambda: changes.symlink(tree.tmp, name, "there", None),
            lambda: changes.link(file, tree.tmp, name),
            lambda: changes.rename(tree.tmp, "there", tree.tmp, name, replace=True),
        )
        for act in acts:
            with pytest.raises(TreeError) as caught:
                await act()
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(TreeError):
            changes.create(tree.tmp, name, 0o600, None)
        assert list(tree.tmp.entries) == ["there"]

    hub(tmp_path, body)


@pytest.mark.parametrize(
    ("target", "number"),
    [(b"", errno.EINVAL), (b"a\0", errno.EINVAL), (b"x" * (PATH_MAX + 1), errno.ENAMETOOLONG)],
)
def test_where_a_link_leads_is_a_path(target: bytes, number: int, tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        with pytest.raises(TreeError) as caught:
            await hub.files.symlink(b"tmp/link", target)
        assert caught.value.errno == number
        assert not hub.mount.tree.tmp.entries

    hub(tmp_path, body)


def test_a_conversation_that_is_not_there_is_no_name(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.mount.backend.arrive("bob", b"hello", "note")
        (name,) = (n for n in hub.mount.tree.outbox.entries if "bob" in n)
        path = f"outbox/{name}/note".encode()
        with pytest.raises(TreeError) as caught:
            await hub.put(FIRST, path, b"for others", conversation=b"x" * ID_SIZE)
        assert caught.value.errno == errno.ESTALE
        assert not hub.drafts()
        assert not hub.notes()

    hub(tmp_path, body)


def test_what_is_newer_takes_the_place_of_its_own_and_of_nothing_else(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.put(FIRST, b"outbox/bob/note", b"of another machine")
        (name, _stat) = await hub.put(SECOND, b"outbox/bob/note", b"first")
        assert name != b"note"
        (again, _stat) = await hub.put(THIRD, b"outbox/bob/note", b"second", before=SECOND)
        assert again == name
        assert hub.drafts() == {"note": b"of another machine", name.decode(): b"second"}

    hub(tmp_path, body)


def test_another_file_that_has_its_number_after_a_restart_is_not_replaced(tmp_path: Path) -> None:
    async def first(hub: Hub) -> None:
        await hub.put(FIRST, b"outbox/bob/note", b"old")
        path = b"outbox/bob/note"
        inodes.append((await hub.files.node(path)).inode)
        await hub.files.unlink(path)

    async def then(hub: Hub) -> None:
        hub.mount.tree._next = inodes[0] - 2  # one for what is handed over, until it is whole
        await hub.put(SECOND, b"outbox/bob/other", b"of another machine")
        assert (await hub.files.node(b"outbox/bob/other")).inode == inodes[0]
        await hub.put(THIRD, b"outbox/bob/note", b"anew", before=FIRST)
        assert hub.drafts() == {"other": b"of another machine", "note": b"anew"}

    inodes: list[int] = []
    hub(tmp_path, first)
    hub(tmp_path, then)


def test_of_a_file_that_arrives_that_is_given_which_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.tree.file_contents.READ_PATIENCE", 0.05)

    async def body(hub: Hub) -> None:
        await arriving(hub.mount)
        (folder, there) = next(iter(hub.mount.tree.conversations.entries.items()))
        assert isinstance(there, Folder)
        (name,) = (each for each in there.entries if "film" in each)
        path, got = f"conversations/{folder}/{name}".encode(), b""
        with pytest.raises(TreeError) as caught:
            async for _told, data in hub.files.content(path, 0, 1 << 30):
                got += data
        assert caught.value.errno == errno.EAGAIN
        assert got == DATA[:HERE]

    hub(tmp_path, body)


# what comes in parts, and by several links


def put(files: HubFiles, identity: bytes, size: int) -> Awaitable[list[Any]]:
    return files.put(identity, b"outbox/bob/note", 0o600, 0, size, b"", False, b"")


def test_the_next_link_goes_on_with_what_has_come(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        first, second = hub.files, hub.link()
        assert await first.upload(FIRST) == 0
        assert await first.part(FIRST, 0, b"half of ") == 8
        await first.close()
        assert await second.upload(FIRST) == 8
        assert await second.part(FIRST, 8, b"it") == 10
        assert await first.part(FIRST, 0, b"half of ") == 10  # what an old link had on its way
        assert (await put(second, FIRST, 10))[0] == b"note"
        assert hub.drafts() == {"note": b"half of it"}
        assert await first.upload(FIRST) is None
        assert await put(first, FIRST, 10) == []

    hub(tmp_path, body)


def test_a_part_that_has_gone_is_asked_for_again(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        with pytest.raises(TreeError) as caught:
            await hub.files.part(FIRST, 8, b"it")
        assert caught.value.errno == errno.EAGAIN
        with pytest.raises(TreeError) as caught:
            await put(hub.files, FIRST, 10)
        assert caught.value.errno == errno.EAGAIN
        assert not hub.drafts()
        for number in range(UPLOADS_MAX + 1):
            await hub.files.part(bytes([number]) * ID_SIZE, 0, b"text")
        there = [await hub.files.upload(bytes([number]) * ID_SIZE) for number in range(9)]
        assert there == [0] + [4] * UPLOADS_MAX

    hub(tmp_path, body)


def test_what_is_kept_for_the_next_link_is_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(hub: Hub) -> None:
        await hub.files.part(FIRST, 0, b"text")
        monkeypatch.setattr("cbfs.mount.remote.files.UPLOAD_KEPT", -1.0)
        await hub.link().close()
        assert await hub.files.upload(FIRST) == 0

    hub(tmp_path, body)


def test_those_who_see_one_conversation_have_no_hand_in_what_others_hand_over() -> None:
    uploads = HandedParts()
    assert uploads.of(b"") is uploads.of(b"")
    assert uploads.of(FIRST).uploads is not uploads.of(b"").uploads
    assert uploads.of(FIRST).lock is not uploads.of(b"").lock


def test_what_is_there_is_not_refused_when_it_comes_again(tmp_path: Path) -> None:
    """The answer to the first was lost, and there is no room for its parts now."""

    async def body(hub: Hub) -> None:
        await hub.put(FIRST, b"outbox/bob/note", b"text")
        again = hub.link()

        def full(*_arguments: Any, **_words: Any) -> None:
            raise TreeError(errno.ENOSPC)

        again._quota.check = full  # type: ignore[method-assign]
        words = _HubWords(again, _Registered({}))
        part = SingleRequest(3, "part", [FIRST, 0, b"text"])
        assert await words.part(part, lambda: None) == (0, 4)
        arguments = [FIRST, b"outbox/bob/note", 0o640, 0, 4, b"", False, b""]
        sent: list[tuple[object, ...]] = []

        async def send(*fields: object) -> None:
            sent.append(fields)

        await words.answer(SingleRequest(4, "put", arguments), send)
        assert sent == [(4, 0, [])]
        assert hub.drafts() == {"note": b"text"}

    hub(tmp_path, body)


def test_what_fails_when_it_is_there_already_is_there_once(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        contents = hub.mount.tree.contents
        save = contents.save

        async def fails(*arguments: Any, **words: Any) -> None:
            await save(*arguments, **words)
            raise CannotWrite("nobody knows whether the disk has it", "look at it")

        contents.save = fails  # type: ignore[method-assign]
        assert await hub.put(FIRST, b"outbox/bob/note", b"text") == []
        contents.save = save  # type: ignore[method-assign]
        assert await hub.put(FIRST, b"outbox/bob/note", b"text") == []
        assert hub.drafts() == {"note": b"text"}
        file = await hub.files.node(b"outbox/bob/note")
        assert isinstance(file, File)
        assert file.failure is Failure.NONE  # it is sent

    hub(tmp_path, body)


def test_what_is_withdrawn_is_no_draft_and_does_not_become_one(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.put(FIRST, b"outbox/bob/note", b"there")
        await hub.put(SECOND, b"outbox/bob/other", b"to be gone")
        folder = await hub.files.node(b"outbox/bob")
        assert isinstance(folder, Folder)
        await hub.files._changes.unlink(folder, "other")  # as when it was sent
        for _ in range(2):  # the answer may be lost, and it is asked again
            assert await hub.files.withdraw(FIRST + SECOND + THIRD) == SECOND
        assert not hub.drafts()
        for identity in (FIRST, THIRD):
            for late in (hub.files.upload(identity), hub.put(identity, b"outbox/bob/note", b"x")):
                with pytest.raises(TreeError) as caught:
                    await late
                assert caught.value.errno == errno.ECANCELED
        assert not hub.drafts()

    hub(tmp_path, body)


def test_a_draft_that_cannot_be_withdrawn_is_there_still(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        await hub.put(FIRST, b"outbox/bob/note", b"there")

        async def fails(*_arguments: object) -> None:
            raise CannotWrite("the disk is full", "make room")

        store = hub.mount.tree.backend.store
        with pytest.MonkeyPatch.context() as patch, pytest.raises(CannotWrite):
            patch.setattr(store, "commit", fails)
            await hub.files.withdraw(FIRST)
        assert hub.drafts() == {"note": b"there"}
        assert await hub.files.upload(FIRST) is None
        assert await hub.files.withdraw(FIRST) == b""
        assert not hub.drafts()

    hub(tmp_path, body)


# links


def test_a_link_that_says_nothing_is_ended() -> None:
    """In 90 seconds that nobody waits for."""

    async def main() -> None:
        ours, _theirs = trio.testing.memory_stream_pair()
        session = HubSession(
            FrameSender(ours), cast(Any, None), Path(), SYSTEM_RANDOM, HandedParts()
        )
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            await session._answer_all(cast(Any, None), ours, Frames(), nursery, b"")
        assert trio.current_time() - began == SILENT_MAX

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_link_that_takes_nothing_is_ended() -> None:
    class Full(trio.abc.SendStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None:
            await trio.sleep_forever()

        async def aclose(self) -> None:
            pass

    async def main() -> None:
        session = HubSession(
            FrameSender(Full()), cast(Any, None), Path(), SYSTEM_RANDOM, HandedParts()
        )
        with pytest.raises(trio.BrokenResourceError):
            await session._send(1, 0, None)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_account_is_always_called_the_same_and_nothing_is_learnt_of_it(tmp_path: Path) -> None:
    found: list[bytes] = []

    async def body(hub: Hub) -> None:
        session = HubSession(
            cast(Any, None), hub.mount.view, tmp_path, SYSTEM_RANDOM, HandedParts()
        )

        class Single:
            def __init__(self, conversation: bytes) -> None:
                self.drafts = Folder(1, hub.mount.tree.outbox.area, 0)
                self.drafts.conversation = conversation

        found.append(await session._account_id(None))
        for conversation in (FIRST, SECOND):
            found.append(await session._account_id(cast(Any, Single(conversation))))

    for _ in range(2):
        hub(tmp_path, body)
    assert found[:3] == found[3:]
    assert len(set(found)) == 3
    other = tmp_path / "other"
    other.mkdir()
    hub(other, body)
    assert not set(found[:3]) & set(found[6:])
