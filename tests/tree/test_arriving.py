"""Reading a file that is still arriving, and what stands in its place elsewhere."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.messages.model import Message
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.storage.store import Writer
from cbfs.tree.nodes import MessageFile
from cbfs.tree.xattrs import xattrs
from cbfs_common.limits import BLOB_ABOVE
from tests.tree.test_tree import Mount, refused, run

SIZE = BLOB_ABOVE + 1_000
HERE = 500_000
DATA = os.urandom(SIZE)


async def arriving(mount: Mount) -> Message:
    """A file of bob's, of which HERE bytes are here."""
    message = await mount.backend.arrive("bob", DATA, "film.mp4")
    await moved_on(mount, message, HERE)
    return message


async def moved_on(mount: Mount, message: Message, done: int) -> None:
    """So much of it is here now."""
    known = SIZE, b"", message.conversation, message.serial, 0, done
    blob = Blob(message.content.id, BlobStage.FETCHING, *known)

    def change(writer: Writer) -> None:
        whole = done == SIZE
        blobs.put(writer, replace(blob, state=BlobStage.HERE) if whole else blob)

    await mount.backend.store.commit(change)


def node_of(mount: Mount, message: Message) -> MessageFile:
    node = mount.tree.message_node(message)
    assert isinstance(node, MessageFile)
    return node


def test_what_is_here_is_read_and_what_is_not_is_said_to_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.tree.file_contents.READ_PATIENCE", 0.05)

    async def body(mount: Mount) -> None:
        message = await arriving(mount)
        node, contents = node_of(mount, message), mount.tree.contents
        assert node.size == SIZE
        assert contents.is_arriving(node)
        assert contents.read(node, 0, SIZE) == DATA[:HERE]
        assert contents.read(node, HERE - 10, 100) == DATA[HERE - 10 : HERE]
        await contents.come(node, HERE)
        with refused(errno.EAGAIN):
            contents.read(node, HERE, 1)
        assert contents.read(node, SIZE, 1) == b"", "its end is known"
        assert xattrs(node, mount.backend)["user.cbfs.progress"] == f"47 % of {SIZE:,} bytes"
        await moved_on(mount, message, SIZE)
        assert not contents.is_arriving(node)
        assert contents.read(node, 0, SIZE) == DATA
        assert "user.cbfs.progress" not in xattrs(node, mount.backend)

    run(tmp_path, body)


def test_a_read_goes_on_when_what_it_waits_for_has_come(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        message = await arriving(mount)
        node, contents = node_of(mount, message), mount.tree.contents
        async with trio.open_nursery() as nursery:
            nursery.start_soon(moved_on, mount, message, SIZE)
            await contents.come(node, HERE)
        assert contents.read(node, HERE, 10) == DATA[HERE : HERE + 10]

    run(tmp_path, body)


def test_a_read_of_what_is_removed_meanwhile_ends(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        message = await arriving(mount)
        node, contents = node_of(mount, message), mount.tree.contents
        await mount.backend.delete(message)
        node.removed = True
        await contents.come(node, HERE)
        with refused(errno.ESTALE):
            contents.read(node, HERE, 1)

    run(tmp_path, body)
