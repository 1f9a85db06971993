"""What waits on one machine while somebody changes it, and while it is being handed over: it goes
to those whom it was meant for last, once, or not at all."""

import errno
import math
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from cbfs.mount.remote import handing as handing_module
from cbfs.mount.remote import spool as spool_module
from cbfs.mount.remote.cache import BLOCK, CACHE_MAX
from cbfs.mount.remote.link import AwayError
from cbfs.mount.remote.nodes import RemoteNode, WaitingNode, local_stat
from cbfs.mount.remote.spool import WaitingFile
from cbfs.mount.remote.wire import ID_SIZE, Stat
from cbfs_common.limits import FILE_SIZE_MAX
from tests.support.remote_machine import (
    BOB,
    CAROL,
    FOLDER,
    Machine,
    made,
    refused,
    run,
    soon,
    until,
)


@pytest.mark.parametrize("what", ["moved", "described", "dropped"])
def test_who_changes_a_file_waits_for_who_hands_it_over(what: str, tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"for bob")
        await machine.sent(1)
        arguments = {
            "moved": (node, machine.carol, b"note"),
            "described": (node, 0o640, 2 * 10**18),
            "dropped": (node,),
        }
        async with trio.open_nursery() as nursery:
            task = getattr(machine.handing, what)
            found = await soon(nursery, task, *arguments[what])
            assert not found
            await machine.link.answer.send(made(b"note"))
        assert found == [False]  # it is the hub's: who asked asks that
        assert len(machine.link.handed) == 1
        assert node.above is machine.bob
        assert not machine.waits()

    run(tmp_path, body)


@pytest.mark.parametrize("what", ["moved", "described", "dropped"])
def test_what_the_hub_may_have_stays_as_it_is_until_that_is_known(
    what: str, tmp_path: Path
) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"for bob")
        first, _ = await machine.sent(1)
        machine.link.is_up = False
        await machine.link.answer.send(AwayError())
        await until(lambda: not machine.handing._claims)
        arguments = {
            "moved": (node, machine.carol, b"note"),
            "described": (node, 0o640, 2 * 10**18),
            "dropped": (node,),
        }
        with refused(errno.EBUSY):
            await getattr(machine.handing, what)(*arguments[what])
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"for bob")]
        machine.link.is_up = True
        async with trio.open_nursery() as nursery:
            found = await soon(nursery, getattr(machine.handing, what), *arguments[what])
            again, _ = await machine.sent(2)
            assert again == first  # the same id: the hub says whether it has it
            assert not found
            await machine.link.answer.send([])
        assert found == [False]
        assert not machine.waits()

    run(tmp_path, body)


def test_what_was_not_on_the_link_goes_where_it_was_moved(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        node = await machine.save(machine.bob, b"note", b"for carol")
        assert await machine.handing.moved(node, machine.carol, b"letter")
        assert await machine.handing.described(node, 0o640, 2 * 10**18)
        gone = await machine.save(machine.bob, b"gone", b"for nobody")
        assert await machine.handing.dropped(gone)
        machine.link.is_up = True
        machine.handing.again()
        item, content = await machine.sent(1)
        assert (item.path, item.conversation) == (b"outbox/carol/letter", CAROL)
        assert (item.mode, item.modified, content) == (0o640, 2 * 10**18, b"for carol")
        await machine.link.answer.send(made(b"letter"))
        await until(lambda: machine.link.told)
        assert machine.link.told == [("taken", [item.identity])]
        assert not machine.waits()
        assert len(machine.link.handed) == 1

    run(tmp_path, body)


def test_what_is_saved_while_it_is_handed_over_is_another_file_in_its_place(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"first")
        first, _ = await machine.sent(1)
        await machine.save(machine.bob, b"note", b"second")
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"second")]
        await machine.link.answer.send(made(b"note"))
        second, content = await machine.sent(2)
        assert content == b"second"
        assert second.identity != first.identity
        assert second.before == first.identity
        assert not second.replaces  # nothing but what the first one has become
        assert not machine.link.told  # which the hub has to know until then
        await machine.link.answer.send(made(b"note"))
        await until(lambda: machine.link.told)
        assert machine.link.told == [("taken", [second.identity, first.identity])]
        assert not machine.waits()
        assert node.outgoing is None
        assert not node.local

    run(tmp_path, body)


def test_what_was_refused_is_tried_again_where_it_is_moved(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"text")
        first, _ = await machine.sent(1)
        await machine.link.answer.send(OSError(errno.ESTALE, ""))
        await until(lambda: node.trouble)
        assert "its conversation is not there any more" in machine.handing.troubles()[0][1]
        await machine.save(machine.bob, b"behind", b"behind it")
        behind, _ = await machine.sent(2)
        assert behind.path == b"outbox/bob/behind"  # the first would be refused again
        await machine.link.answer.send(made(b"behind"))
        assert await machine.handing.moved(node, machine.carol, b"note")
        assert not node.trouble
        second, content = await machine.sent(3)
        assert (second.path, second.conversation) == (b"outbox/carol/note", CAROL)
        assert second.identity != first.identity
        assert content == b"text"

    run(tmp_path, body)


def test_what_was_refused_for_what_passes_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing_module, "AGAIN", 0.02)

    async def body(machine: Machine) -> None:
        await machine.save(machine.bob, b"note", b"text")
        await machine.sent(1)
        await machine.link.answer.send(OSError(errno.ENOSPC, ""))
        await machine.sent(2)
        await machine.link.answer.send(made(b"note"))
        await until(lambda: not machine.waits())

    run(tmp_path, body)


def test_a_move_over_what_waits_is_one_step(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        old = await machine.save(machine.carol, b"note", b"old")
        identity = old.outgoing.identity if old.outgoing else b""
        before = (machine.spool.path / f"{identity.hex()}.out").read_bytes()
        node = await machine.save(machine.bob, b"new", b"new")
        assert await machine.handing.moved(node, machine.carol, b"note")
        assert machine.waits() == [(b"outbox/carol/note", CAROL, b"new")]
        assert old.gone
        assert machine.carol.entries == {b"note": node}
        # as if this machine had been killed before the one that it replaces was removed
        (machine.spool.path / f"{identity.hex()}.out").write_bytes(before)
        machine.spool.close()
        async with trio.open_nursery() as nursery:
            again = Machine(tmp_path, nursery)
            assert len(again.waiting) == 2
            await again.handing.begin(again.waiting)
            assert again.handing.count == 1
            assert again.waits() == [(b"outbox/carol/note", CAROL, b"new")]
            again.spool.close()
            nursery.cancel_scope.cancel()

    run(tmp_path, body)


def test_a_move_that_the_disk_does_not_take_has_not_happened(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        node = await machine.save(machine.bob, b"note", b"text")
        kept = tmp_path / "kept"
        shutil.copytree(machine.spool.path, kept)

        def fails(*_arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        machine.spool.save, save = fails, machine.spool.save  # type: ignore[assignment, method-assign]
        with refused(errno.ENOSPC):
            await machine.handing.moved(node, machine.carol, b"note")
        machine.spool.save = save  # type: ignore[method-assign]
        assert node.above is machine.bob
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"text")]

    run(tmp_path, body)


def test_a_folder_that_only_this_machine_knows_takes_along_what_waits_in_it(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        folder = machine.tree.make(machine.outbox, b"dvae", FOLDER)
        for name in (b"one", b"two"):
            await machine.save(folder, name, name)
        await machine.handing.folder_moved(folder, machine.outbox, b"dave")
        expected = [(b"outbox/dave/one", b"", b"one"), (b"outbox/dave/two", b"", b"two")]
        assert machine.waits() == expected
        assert machine.outbox.entries[b"dave"] is folder
        machine.link.is_up = True
        machine.handing.again()
        assert (await machine.sent(1))[0].path == b"outbox/dave/one"

    run(tmp_path, body)


def test_a_folder_in_which_something_is_saved_while_it_is_moved_stays(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        folder = machine.tree.make(machine.outbox, b"dvae", FOLDER)
        first = await machine.save(folder, b"first", b"first")
        async with trio.open_nursery() as nursery:
            with machine.handing._claim(first):
                move = machine.handing.folder_moved
                found = await soon(nursery, move, folder, machine.outbox, b"dave")
                await machine.save(folder, b"second", b"second")
                assert not found
        assert found[0].errno == errno.EBUSY
        expected = [(b"outbox/dvae/first", b"", b"first"), (b"outbox/dvae/second", b"", b"second")]
        assert machine.waits() == expected
        assert machine.outbox.entries[b"dvae"] is folder

    run(tmp_path, body)


def test_as_many_files_as_may_wait_are_moved_with_their_folder(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        folder = machine.tree.make(machine.outbox, b"dvae", FOLDER)
        for number in range(1_200):  # more than calls may be within each other
            node = machine.tree.make(folder, b"%d" % number, local_stat(stat.S_IFREG | 0o600))
            node.outgoing = WaitingFile(
                number.to_bytes(ID_SIZE, "big"), b"outbox/dvae/%d" % number, 0o600, 0, b"", False, 0
            )
            machine.handing._waiting[node.outgoing.identity] = WaitingNode(node.outgoing, node)
        with refused(errno.ENOENT):  # no file is on this disk: all of them were claimed
            await machine.handing.folder_moved(folder, machine.outbox, b"dave")
        assert not machine.handing._claims

    run(tmp_path, body)


def test_what_replaces_a_draft_of_the_hub_takes_that_along_when_it_is_removed(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        told = Stat(9, stat.S_IFREG | 0o600, 1, 5, 1, 1, 1, False, b"")
        node = machine.tree.enter(machine.bob, b"note", told, 1)
        await machine.save(machine.bob, b"note", b"anew")
        with refused(errno.EHOSTUNREACH):
            await machine.handing.dropped(node)
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"anew")]
        machine.link.is_up = True
        assert await machine.handing.dropped(node)
        assert machine.link.asked == [("unlink", b"outbox/bob/note")]
        assert not machine.waits()

    run(tmp_path, body)


def test_a_time_that_is_set_before_the_file_is_closed_goes_along(tmp_path: Path) -> None:
    later = 4 * 10**18

    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        node = machine.tree.make(machine.bob, b"note", local_stat(stat.S_IFREG | 0o600))
        node.writing, node.dirty, node.writers = bytearray(b"for next year"), True, 1
        await machine.writing.describe(node, 0o640, later)
        await machine.writing.store(node, whole=True)
        (item,) = (each.item for each in machine.handing._waiting.values())
        assert (item.mode, item.modified) == (0o640, later)
        assert node.stat.modified == later

    run(tmp_path, body)


# close(2)


def test_close_fails_for_what_nobody_would_get(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = machine.tree.make(machine.bob, b"note", local_stat(stat.S_IFREG | 0o600))
        node.writing, node.dirty, node.writers = bytearray(b"text"), True, 1
        machine.tree.remove(machine.bob)
        assert node.gone
        with refused(errno.ESTALE):
            await machine.writing.store(node, whole=True)
        other = machine.tree.make(machine.carol, b"note", local_stat(stat.S_IFREG | 0o600))
        other.writing, other.dirty, other.writers = bytearray(b"text"), True, 1
        machine.tree.remove(other)
        other.unlinked = True
        await machine.writing.store(other, whole=True)  # it was removed here: as on any file system

    run(tmp_path, body)


def test_a_folder_in_which_somebody_writes_stays(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        inner = machine.tree.enter(machine.bob, b"photos", FOLDER, 1)
        node = machine.tree.make(inner, b"one", local_stat(stat.S_IFREG | 0o600))
        node.writers = 1
        machine.view.news(["goes", b"outbox/bob"])
        assert not node.gone
        machine.tree.enter(machine.outbox, b"bob", local_stat(stat.S_IFREG | 0o600), 2)
        assert not node.gone
        empty = machine.tree.enter(machine.carol, b"photos", FOLDER, 1)
        leave: list[Callable[[], None]] = []
        machine.view.notifier.remove_folder = lambda _path, change: leave.append(change)  # type: ignore[assignment, method-assign]
        machine.view.news(["goes", b"outbox/carol/photos"])
        written = machine.tree.make(empty, b"one", local_stat(stat.S_IFREG | 0o600))
        written.writers = 1
        leave[0]()  # somebody has begun to write in it before it was shown to go
        assert not written.gone

    run(tmp_path, body)


def test_two_who_close_are_both_told_that_it_is_nowhere(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = machine.tree.make(machine.bob, b"note", local_stat(stat.S_IFREG | 0o600))
        node.writing, node.dirty, node.writers = bytearray(b"text"), True, 2
        goes_on, tries = trio.Event(), 0

        async def fails(_node: RemoteNode, _content: bytes, *, whole: bool) -> None:
            nonlocal tries
            tries += 1
            await goes_on.wait()
            raise OSError(errno.ENOSPC, "")

        async def close(node: RemoteNode) -> None:
            await machine.writing.close(node, killed=False)

        machine.handing.save = fails  # type: ignore[assignment, method-assign]
        async with trio.open_nursery() as nursery:
            first = await soon(nursery, close, node)
            second = await soon(nursery, close, node)
            assert not first
            assert not second
            goes_on.set()
        assert [each[0].errno for each in (first, second)] == [errno.ENOSPC] * 2
        assert tries == 2

    run(tmp_path, body)


def test_what_is_flushed_waits_until_it_is_closed_and_what_is_cut_off_for_ever(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        files = {}
        for name in (b"closed", b"cut"):
            node = files[name] = machine.tree.make(
                machine.bob, name, local_stat(stat.S_IFREG | 0o600)
            )
            node.writing, node.dirty, node.writers = bytearray(name), True, 1
            await machine.writing.store(node, whole=False)
        machine.handing.wake()
        await machine.writing.close(files[b"closed"], killed=False)
        await machine.writing.close(files[b"cut"], killed=True)
        for node in files.values():
            machine.writing.wrote(node)
        item, content = await machine.sent(1)
        assert (item.path, content) == (b"outbox/bob/closed", b"closed")
        await machine.link.answer.send(made(b"closed"))
        await until(lambda: machine.handing.count == 1)
        assert len(machine.link.handed) == 1
        machine.spool.close()
        async with trio.open_nursery() as nursery:
            again = Machine(tmp_path, nursery)  # as after a restart of this machine
            await again.handing.begin(again.waiting)
            nursery.start_soon(again.handing.run)
            await again.save(again.carol, b"behind", b"behind it")
            assert (await again.sent(1))[1] == b"behind it"
            await again.link.answer.send(made(b"behind"))
            ((path, why),) = again.handing.troubles()
            assert path == "outbox/bob/cut"
            assert "cut off" in why
            node = again.bob.entries[b"cut"]
            node.writers = 1
            await again.writing.begin(node, anew=True)
            again.writing.write(node, 0, b"anew")
            await again.writing.close(node, killed=False)
            again.writing.wrote(node)
            assert (await again.sent(2))[1] == b"anew"
            assert not node.trouble
            nursery.cancel_scope.cancel()

    run(tmp_path, body)


def test_what_is_killed_before_anything_was_stored_is_nothing(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = machine.tree.make(machine.bob, b"note", local_stat(stat.S_IFREG | 0o600))
        node.writing, node.dirty, node.writers = bytearray(b"half of"), True, 1
        await machine.writing.close(node, killed=True)
        machine.writing.wrote(node)
        assert not machine.waits()
        assert not machine.bob.entries

    run(tmp_path, body)


def test_what_is_killed_after_something_was_stored_is_no_message(tmp_path: Path) -> None:
    """As a shell does that closes a copy of the descriptor before anything is written."""

    async def body(machine: Machine) -> None:
        node = machine.tree.make(machine.bob, b"note", local_stat(stat.S_IFREG | 0o600))
        node.writing, node.dirty, node.writers = bytearray(), True, 1
        await machine.writing.close(node, killed=False)
        machine.writing.write(node, 0, b"half of")
        await machine.writing.close(node, killed=True)
        machine.writing.wrote(node)
        await machine.save(machine.carol, b"behind", b"behind it")
        assert (await machine.sent(1))[1] == b"behind it"
        await machine.link.answer.send(made(b"behind"))
        await until(lambda: machine.handing.count == 1)
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"half of")]
        assert "cut off" in node.trouble

    run(tmp_path, body)


def test_what_is_too_large_is_not_sent_in_part(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = machine.tree.make(machine.bob, b"film", local_stat(stat.S_IFREG | 0o600))
        node.writing, node.dirty, node.writers = bytearray(b"the beginning"), True, 1
        with refused(errno.EFBIG):
            machine.writing.write(node, FILE_SIZE_MAX, b"x")
        with refused(errno.EFBIG):
            await machine.writing.close(node, killed=False)
        machine.writing.wrote(node)
        assert not machine.waits()
        assert not machine.bob.entries

    run(tmp_path, body)


# what is read


def test_the_beginning_is_read_of_what_still_arrives_at_the_hub(tmp_path: Path) -> None:
    size = 10 * BLOCK
    told = Stat(9, stat.S_IFREG | 0o400, 1, size, 1, 1, 1, True, b"")

    class Pieces:
        def __enter__(self) -> "Pieces":
            return self

        def __exit__(self, *_error: object) -> None:
            pass

        async def __aiter__(self) -> AsyncIterator[list[Any]]:
            yield [list(told), b"a" * (3 * BLOCK)]
            raise OSError(errno.EAGAIN, "")

    async def body(machine: Machine) -> None:
        machine.link.pieces = lambda *_words: Pieces()  # type: ignore[attr-defined]
        node = machine.tree.enter(machine.bob, b"film", told, 1)
        content = await machine.view.contents.opened(node)
        assert await machine.view.contents.read(node, content, 0, 100) == b"a" * 100
        with refused(errno.EAGAIN):
            await machine.view.contents.read(node, content, 5 * BLOCK, 100)

    run(tmp_path, body)


def test_what_is_larger_than_can_be_kept_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        told = Stat(9, stat.S_IFREG | 0o600, 1, CACHE_MAX + 1, 1, 1, 1, False, b"")
        node = machine.tree.enter(machine.bob, b"film", told, 1)
        with refused(errno.EFBIG):  # the link knows no pieces
            await machine.view.contents.opened(node)

    run(tmp_path, body)


@pytest.mark.parametrize("what", ["moved", "described", "dropped"])
def test_what_is_not_tried_again_while_somebody_writes_in_it_is_not_waited_for(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing_module, "WAIT_MAX", math.inf)

    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"for bob")
        await machine.sent(1)
        node.writers += 1
        await machine.link.answer.send(AwayError())
        await until(lambda: not machine.handing._claims)
        arguments = {
            "moved": (node, machine.carol, b"note"),
            "described": (node, 0o640, 2 * 10**18),
            "dropped": (node,),
        }
        with refused(errno.EBUSY):
            await getattr(machine.handing, what)(*arguments[what])
        node.writers -= 1
        machine.handing.wake()
        await machine.sent(2)
        await machine.link.answer.send([])
        await until(lambda: not machine.waits())

    run(tmp_path, body)


@pytest.mark.parametrize("has", [True, False])
def test_what_the_disk_has_dropped_and_not_said_so_is_asked_for_at_the_hub(
    has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing_module, "AGAIN", 0.02)

    def fails(_place: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def body(machine: Machine) -> None:
        machine.link.there = None if has else 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spool_module, "sync_directory", fails)
            node = await machine.save(machine.bob, b"note", b"for bob")
            item, _ = await machine.sent(1)
            await machine.link.answer.send(made(b"note"))
            await until(lambda: node.trouble)
            assert not machine.waits()
        await until(lambda: ("upload", item.identity) in machine.link.asked)
        if has:
            await until(lambda: not machine.handing.count)
            assert machine.link.told == [("taken", [item.identity])]
        else:
            assert node.trouble
            assert await machine.handing.dropped(node)
        assert machine.spool._bytes == 0
        assert len(machine.link.handed) == 1

    run(tmp_path, body)
