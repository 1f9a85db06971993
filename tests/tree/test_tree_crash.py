"""What a crash, a change in mid-sending or a strange file leaves: the outbox over a real store."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from cbfs.storage.store import Store, Writer
from cbfs.tree.nodes import Folder
from tests.tree.test_tree import Mount, only, refused, run, until

pytestmark = pytest.mark.slow

T = TypeVar("T")


def stop_commits(store: Store, after: int) -> None:
    """From now on only so many commits reach the disk: as when the machine is switched off."""
    commit, left = store.commit, [after]

    async def limited(change: Callable[[Writer], T], *, only_adds: bool = False) -> T:
        if not left[0]:
            await trio.sleep_forever()
        left[0] -= 1
        return await commit(change, only_adds=only_adds)

    vars(store)["commit"] = limited


def test_a_crash_in_a_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    for commits in range(3):
        place = tmp_path / str(commits)
        place.mkdir()

        async def write(mount: Mount, commits: int = commits) -> None:
            file = await mount.save(mount.tree.ui_info, "f", b"old content")
            await mount.tree.contents.truncate(file, 0)
            await mount.tree.contents.write(file, 0, b"new")
            stop_commits(mount.backend.store, commits)
            with trio.move_on_after(0.2):
                await mount.tree.contents.save(file)

        async def read(mount: Mount) -> None:
            node = mount.tree.lookup(mount.tree.ui_info, "f")
            assert mount.read(node) in (b"old content", b"new")

        run(place, write)
        run(place, read)


def test_a_renamed_sent_file_is_not_sent_again(tmp_path: Path) -> None:
    async def write(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: mount.backend.sent)
        (conversation,) = mount.backend.conversations()
        _, drafts = tree.folders(conversation.id)
        await mount.changes.rename(drafts, "hi", drafts, "hi2", replace=True)

    async def again(mount: Mount) -> None:
        await trio.sleep(0.3)
        assert not mount.backend.sent

    run(tmp_path, write)
    run(tmp_path, again)


def test_a_renamed_sent_file_leaves_the_outbox(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: mount.backend.sent)
        (conversation,) = mount.backend.conversations()
        _, drafts = tree.folders(conversation.id)
        await mount.changes.rename(drafts, "hi", drafts, "hi2", replace=True)
        await until(lambda: set(drafts.entries) == {"metadata.toml"})

    run(tmp_path, body)


def test_a_sent_file_that_was_open_leaves_the_outbox_when_closed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"hello")
        await until(lambda: mount.backend.sent)
        (conversation,) = mount.backend.conversations()
        _, drafts = tree.folders(conversation.id)
        file.writers += 1
        file.handles += 1
        await trio.sleep(1.5)
        await mount.close(file)
        await until(lambda: set(drafts.entries) == {"metadata.toml"})

    run(tmp_path, body)


def test_a_message_held_by_its_date_is_held_after_restart(tmp_path: Path) -> None:
    async def write(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = mount.changes.create(folder, "hi", 0o600, None)
        await mount.tree.contents.write(file, 0, b"hello")
        file.writers += 1
        file.handles += 1
        await mount.changes.describe(file, None, time.time_ns() + 10**12)
        await mount.close(file)
        await mount.changes.describe(file, 0o640, time.time_ns() + 2 * 10**12)
        await trio.sleep(0.1)

    async def read(mount: Mount) -> None:
        folder = mount.tree.lookup(mount.tree.outbox, "bob")
        assert isinstance(folder, Folder)
        node = folder.entries["hi"]
        assert node.mode & 0o777 == 0o640
        assert node.mtime_ns > time.time_ns() + 10**12
        await trio.sleep(0.2)
        assert not mount.backend.sent

    run(tmp_path, write)
    run(tmp_path, read)


def test_touch_of_a_closed_draft_is_kept(tmp_path: Path) -> None:
    """touch -d tomorrow, before the grace is over, and then the mount ends."""

    async def write(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"hello")
        await mount.changes.describe(file, None, time.time_ns() + 10**12)
        await trio.sleep(0.1)

    async def read(mount: Mount) -> None:
        await trio.sleep(0.3)
        assert not mount.backend.sent

    run(tmp_path, write, grace=3600.0)
    run(tmp_path, read)


def test_a_change_while_it_is_being_sent_is_not_lost(tmp_path: Path) -> None:
    async def write(mount: Mount) -> None:
        gate = trio.Event()
        mount.backend.gate = lambda: gate
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"first")
        await trio.sleep(0.1)
        file.writers += 1
        file.handles += 1
        await mount.tree.contents.truncate(file, 0)
        await mount.tree.contents.write(file, 0, b"second")
        await mount.close(file)
        mount.view.outbox.grace = 3600.0
        gate.set()
        await trio.sleep(0.2)

    async def read(mount: Mount) -> None:
        await until(lambda: any(data == b"second" for _, data in mount.backend.sent))

    run(tmp_path, write)
    run(tmp_path, read)


def test_rm_takes_back_what_waits_for_the_directory(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        gate = trio.Event()
        mount.backend.gate = lambda: gate
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await trio.sleep(0.1)
        await mount.changes.unlink(folder, "hi")
        gate.set()
        await trio.sleep(0.2)
        assert not mount.backend.sent

    run(tmp_path, body)


def test_metadata_that_is_too_deep_is_an_error_and_no_more(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "any name")
        await mount.save(folder, "metadata.toml", b"participants = " + b"[" * 60_000)
        await mount.save(folder, "hi", b"hello")
        await until(lambda: "any name.error" in mount.tree.outbox.entries)

    run(tmp_path, body)


def test_one_slow_look_up_does_not_hold_the_other_folders(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        gate, calls = trio.Event(), []

        def first_waits() -> object:
            calls.append(1)
            return gate if len(calls) == 1 else None

        mount.backend.gate = first_waits
        slow = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await mount.save(slow, "hi", b"slow")
        await until(lambda: calls)
        quick = await mount.changes.mkdir(mount.tree.outbox, "carol")
        await mount.save(quick, "hi", b"quick")
        await until(lambda: [data for _, data in mount.backend.sent] == [b"quick"])
        gate.set()

    run(tmp_path, body)


def test_a_removed_message_is_erased_though_somebody_has_it_open(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"hello")
        there, _ = mount.tree.folders(message.conversation)
        node = only(there)
        mount.tree.inodes.count(node)
        await mount.changes.unlink(there, message.name)
        with refused(errno.ESTALE):
            mount.read(node)

    run(tmp_path, body)
