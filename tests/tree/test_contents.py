"""The bytes of files: in blocks, in memory, spilled and stored, and what a failure leaves."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs.storage.store import CannotWrite, StoreError, Table, Writer
from cbfs.tree import file_contents
from cbfs.tree.nodes import File
from cbfs.tree.write_buffer import BLOCK, count_blocks
from tests.tree.test_tree import Mount, only, run, until

T = TypeVar("T")

steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 3 * BLOCK), st.binary(min_size=1, max_size=99)),
    st.tuples(st.just("truncate"), st.integers(0, 3 * BLOCK), st.just(b"")),
    st.tuples(st.just("save"), st.just(0), st.just(b"")),
    st.tuples(st.just("close"), st.just(0), st.just(b"")),
)


@settings(max_examples=15, deadline=None)
@given(script=st.lists(steps, max_size=12), memory=st.sampled_from((0, BLOCK, 1 << 20)))
def test_a_file_holds_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int, bytes]], memory: int
) -> None:
    """However little of it is in memory."""
    model = bytearray()

    async def write(mount: Mount) -> None:
        tree = mount.tree
        file = mount.changes.create(tree.ui_info, "f", 0o600, None)
        for step, number, data in script:
            if step == "write":
                await tree.contents.write(file, number, data)
                model.extend(bytes(max(0, number - len(model))))
                model[number : number + len(data)] = data
            elif step == "truncate":
                await tree.contents.truncate(file, number)
                del model[number:]
                model.extend(bytes(number - len(model)))
            else:
                await tree.contents.save(file)
                if step == "close":
                    tree.contents.closed(file)
            assert mount.read(file) == model
        await tree.contents.save(file)

    async def read(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(mount.tree.ui_info, "f")) == model
        with mount.backend.store.read() as reader:
            assert len(list(reader.keys(Table.CONTENT))) <= count_blocks(len(model))
            assert not list(reader.keys(Table.META, b"scratch "))

    place = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_contents, "MEMORY_MAX", memory)
        patch.setattr(file_contents, "COPIED_AT_ONCE", 1)
        run(place, write)
        run(place, read)


def test_a_large_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    size = 5 * file_contents.MEMORY_MAX

    async def write(mount: Mount) -> None:
        file = mount.changes.create(mount.tree.ui_info, "f", 0o600, None)
        for offset in range(0, size, BLOCK):
            await mount.tree.contents.write(file, offset, offset.to_bytes(8, "big") * (BLOCK // 8))
            assert file.draft is not None
            assert file.draft.held <= 2 * file_contents.MEMORY_MAX + BLOCK
        await mount.tree.contents.save(file)
        assert file.draft is None

    async def read(mount: Mount) -> None:
        node = mount.tree.lookup(mount.tree.ui_info, "f")
        assert node.size == size
        for offset in range(0, size, BLOCK):
            assert mount.tree.contents.read(node, offset, 8) == offset.to_bytes(8, "big")

    run(tmp_path, write)
    run(tmp_path, read)


def test_what_was_spilled_and_never_saved_is_gone_after_a_crash(tmp_path: Path) -> None:
    async def write(mount: Mount) -> None:
        file = await mount.save(mount.tree.ui_info, "f", b"old content")
        await mount.tree.contents.truncate(file, 0)
        await mount.tree.contents.write(file, 0, bytes(2 * file_contents.MEMORY_MAX + BLOCK))
        assert file.draft is not None
        assert file.draft.spilled

    async def read(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(mount.tree.ui_info, "f")) == b"old content"
        with mount.backend.store.read() as reader:
            assert len(list(reader.keys(Table.CONTENT))) == 1

    run(tmp_path, write)
    run(tmp_path, read)


def fail_commits(mount: Mount, count: int, gate: trio.Event | None = None) -> None:
    """The next commits find the disk full; all wait for the gate."""
    store, left = mount.backend.store, [count]
    vars(store).pop("commit", None)
    commit = store.commit

    async def limited(change: Callable[[Writer], T], *, only_adds: bool = False) -> T:
        if gate is not None:
            await gate.wait()
        if left[0]:
            left[0] -= 1
            raise CannotWrite("the store cannot be written", "is the disk full?")
        return await commit(change, only_adds=only_adds)

    vars(store)["commit"] = limited


@pytest.mark.parametrize("spilled", [False, True])
def test_what_could_not_be_stored_is_still_there(tmp_path: Path, spilled: bool) -> None:
    head = os.urandom(2 * file_contents.MEMORY_MAX + BLOCK if spilled else 100)

    async def write(mount: Mount) -> None:
        tree = mount.tree
        file = await mount.save(tree.ui_info, "f", b"old content")
        await tree.contents.truncate(file, 0)
        await tree.contents.write(file, 0, head)
        fail_commits(mount, 1)
        with pytest.raises(StoreError):
            await tree.contents.save(file)
        assert mount.read(file) == head
        await tree.contents.write(file, len(head), b"more")
        await tree.contents.save(file)

    async def read(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(mount.tree.ui_info, "f")) == head + b"more"

    run(tmp_path, write)
    run(tmp_path, read)


@pytest.mark.parametrize("fails", [0, 1])
def test_a_change_while_it_is_stored_is_not_lost(tmp_path: Path, fails: int) -> None:
    async def write(mount: Mount) -> None:
        tree = mount.tree
        file = await mount.save(tree.ui_info, "f", b"0123456789")
        await tree.contents.write(file, 2, b"XX")
        gate = trio.Event()
        fail_commits(mount, fails, gate)

        async def store() -> None:
            try:
                await tree.contents.save(file)
            except StoreError:
                assert fails

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store)
            await until(lambda: file.storing)
            await tree.contents.truncate(file, 6)
            await tree.contents.write(file, 8, b"YY")
            assert mount.read(file) == b"01XX45\0\0YY"
            gate.set()
        assert mount.read(file) == b"01XX45\0\0YY"
        await tree.contents.save(file)

    async def read(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(mount.tree.ui_info, "f")) == b"01XX45\0\0YY"

    run(tmp_path, write)
    run(tmp_path, read)


def tell_late(mount: Mount, gate: trio.Event) -> trio.Event:
    """The next commit is on the disk some time before who wants it knows. Gives when it is."""
    store, there = mount.backend.store, trio.Event()
    commit = store.commit

    async def late(change: Callable[[Writer], T], *, only_adds: bool = False) -> T:
        vars(store).pop("commit")
        result = await commit(change, only_adds=only_adds)
        there.set()
        await gate.wait()
        return result

    vars(store)["commit"] = late
    return there


@pytest.mark.parametrize("how", ["mode", "time", "link", "rename", "over", "unlink one"])
@pytest.mark.parametrize("size", [20, 2 * file_contents.MEMORY_MAX])
def test_a_change_of_the_record_while_the_content_is_stored_keeps_the_content(
    tmp_path: Path, how: str, size: int
) -> None:
    """The record that it writes must not name what was stored before."""
    data = os.urandom(size)

    async def write(mount: Mount) -> None:
        tree = mount.tree
        folder = tree.ui_info
        file = await mount.save(folder, "f", b"old content")
        await mount.save(folder, "other", b"other")
        await mount.changes.link(file, folder, "g")
        await tree.contents.truncate(file, 0)
        await tree.contents.write(file, 0, data)
        await until(lambda: not file.lock.locked())
        gate = trio.Event()
        async with trio.open_nursery() as nursery:
            there = tell_late(mount, gate)
            nursery.start_soon(tree.contents.save, file)
            await there.wait()
            if how == "mode":
                await mount.changes.describe(file, 0o640, None)
            elif how == "time":
                await mount.changes.describe(file, None, 10**18)
            elif how == "unlink one":
                await mount.changes.unlink(folder, "g")
            else:  # these wait for it
                if how == "link":
                    nursery.start_soon(mount.changes.link, file, folder, "h")
                else:
                    new = "other" if how == "over" else "h"
                    nursery.start_soon(
                        partial(mount.changes.rename, folder, "g", folder, new, replace=True)
                    )
                await trio.testing.wait_all_tasks_blocked()
            gate.set()

    async def read(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(mount.tree.ui_info, "f")) == data

    run(tmp_path, write)
    run(tmp_path, read)


@pytest.mark.parametrize("how", ["mode", "unlink"])
def test_what_is_written_over_a_sent_file_does_not_take_the_message_along(
    tmp_path: Path, how: str
) -> None:
    """The mount dies before what was written is stored: its record must not name the content, which
    is the message's, as it goes with the record, or is sent again."""

    async def write(mount: Mount) -> None:
        tree = mount.tree
        file = await mount.save(await mount.changes.mkdir(tree.outbox, "bob"), "f", b"hello")
        await until(lambda: mount.backend.sent)
        file.handles += 1
        file.writers += 1
        await tree.contents.write(file, 0, b"HE")
        ((folder, name),) = file.names
        if how == "mode":
            await mount.changes.describe(file, 0o640, None)
        else:
            await mount.changes.unlink(folder, name)

    async def read(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        there, drafts = mount.tree.folders(conversation.id)
        assert mount.read(only(there)) == b"hello"
        if how == "mode":
            assert not mount.tree.lookup(drafts, "f").size

    run(tmp_path, write)
    run(tmp_path, read)


def test_a_change_while_it_is_spilled_is_not_lost(tmp_path: Path) -> None:
    head = os.urandom(file_contents.MEMORY_MAX + BLOCK)
    expected = bytearray(head[: 3 * BLOCK])
    expected[5:7] = b"XX"
    expected += bytes(BLOCK) + b"YY"

    async def write(mount: Mount) -> None:
        tree = mount.tree
        file = mount.changes.create(tree.ui_info, "f", 0o600, None)
        gate = trio.Event()
        fail_commits(mount, 0, gate)
        await tree.contents.write(file, 0, head)
        await until(lambda: gate.statistics().tasks_waiting)  # it is being spilled
        await tree.contents.write(file, 5, b"XX")
        await tree.contents.truncate(file, 3 * BLOCK)
        await tree.contents.write(file, 4 * BLOCK, b"YY")
        assert mount.read(file) == expected
        gate.set()
        await until(lambda: not file.lock.locked())
        assert file.draft is not None
        assert file.draft.spilled == {1, 2}
        assert mount.read(file) == expected
        await tree.contents.save(file)

    async def read(mount: Mount) -> None:
        assert mount.read(mount.tree.lookup(mount.tree.ui_info, "f")) == expected

    run(tmp_path, write)
    run(tmp_path, read)


def test_who_writes_on_is_told_that_the_disk_is_full(tmp_path: Path) -> None:
    part = os.urandom(BLOCK)

    async def body(mount: Mount) -> None:
        tree = mount.tree
        file = mount.changes.create(tree.ui_info, "f", 0o600, None)
        fail_commits(mount, 1 << 20)
        written = 0
        with pytest.raises(StoreError):
            while written <= 3 * file_contents.MEMORY_MAX:
                await tree.contents.write(file, written, part)
                written += len(part)
        assert written <= 2 * file_contents.MEMORY_MAX + BLOCK
        fail_commits(mount, 0)
        data = mount.read(file)
        assert data == part * (len(data) // BLOCK)
        await tree.contents.save(file)
        assert mount.read(file) == data

    run(tmp_path, body)


def test_a_hole_is_zeros_and_is_sent_as_such(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file: File = mount.changes.create(folder, "hole", 0o600, None)
        file.writers += 1
        file.handles += 1
        await mount.tree.contents.truncate(file, 3 * BLOCK)
        await mount.tree.contents.write(file, 3 * BLOCK + 5, b"end")
        await mount.close(file)
        await until(lambda: mount.backend.sent)
        ((message, data),) = mount.backend.sent
        assert data == bytes(3 * BLOCK + 5) + b"end"
        there, _ = mount.tree.folders(message.conversation)
        assert mount.read(only(there)) == data

    run(tmp_path, body)


def test_nothing_is_left_of_an_unlinked_file_when_it_is_closed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        file = await mount.save(tree.tmp, "f", bytes(file_contents.MEMORY_MAX + BLOCK))
        file.handles += 1
        file.writers += 1
        await mount.changes.unlink(tree.tmp, "f")
        # the spill is to begin
        await tree.contents.write(file, 0, b"x" * (file_contents.MEMORY_MAX + BLOCK))
        assert mount.read(file)[:1] == b"x"
        await mount.close(file)
        with mount.backend.store.read() as reader:
            assert not list(reader.keys(Table.CONTENT))
            assert not list(reader.keys(Table.NODES))

    run(tmp_path, body)
