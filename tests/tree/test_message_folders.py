"""A message that is a folder, where it arrives: read, removed, found, with names that are none."""

import errno
from pathlib import Path

from cbfs.messages import history
from cbfs.messages.content import read_content, read_table
from cbfs.storage.store import Table
from cbfs.tree.nodes import Folder, FolderFile
from cbfs.tree.virtual.conversation_folder import MessageFolder
from cbfs.tree.xattrs import xattrs
from tests.mount.test_moved_in_folders import FILES, contents, fill, shown
from tests.tree.test_message_links import listed
from tests.tree.test_tree import Mount, refused, run, until


async def arrived(mount: Mount, files: dict[str, bytes] = FILES) -> MessageFolder:
    """A folder from bob: one that alice has sent, given to her as his."""
    top = await mount.changes.mkdir(mount.tree.tmp, "in")
    await fill(mount, top, files)
    await mount.backend.arrive_folder("bob", mount.tree, top)
    return shown(mount)


def test_files_of_a_received_folder_can_be_read_and_removed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await arrived(mount)
        assert contents(mount, folder) == FILES
        with mount.backend.store.read() as reader:
            message = history.get_message(reader, *folder.message)
            assert message is not None
            before = read_content(reader, message.content, 0, message.content.size)
        assert FILES["deep/two.jpg"] in before
        deep = folder.entries["deep"]
        assert isinstance(deep, Folder)
        two = deep.entries["two.jpg"]
        assert isinstance(two, FolderFile)
        tree.inodes.count(two)  # somebody has it open
        with refused(errno.EACCES):
            mount.changes.create(folder, "new", 0o600, None)
        for there in (tree.tmp, tree.ui_info):  # mv then copies
            with refused(errno.EXDEV):
                await mount.changes.rename(folder, "z", there, "z", replace=False)
            with refused(errno.EXDEV):
                await mount.changes.rename(folder, "deep", there, "deep", replace=False)
        with refused(errno.ENOTEMPTY):
            await mount.changes.rmdir(folder, "deep")
        (conversation,) = tree.conversations.entries.values()
        assert isinstance(conversation, Folder)
        with refused(errno.ENOTEMPTY):
            await mount.changes.rmdir(conversation, folder.name)
        await mount.changes.unlink(deep, "two.jpg")
        with refused(errno.ESTALE):
            tree.contents.read(two, 0, 1)
        left = {path: data for path, data in FILES.items() if path != "deep/two.jpg"}
        assert contents(mount, folder) == left
        with mount.backend.store.read() as reader:  # its bytes are gone, not just its name
            after = read_content(reader, message.content, 0, message.content.size)
            table = read_table(reader, message.content)
        assert len(after) == len(before)
        start = table.starts[[e.name for e in table.entries].index("two.jpg")]
        assert not any(after[start : start + 200_000])
        around = slice(None, start), slice(start + 200_000, None)
        assert [after[part] for part in around] == [before[part] for part in around]

    async def again(mount: Mount) -> None:
        tree = mount.tree
        folder = shown(mount)
        left = {path: data for path, data in FILES.items() if path != "deep/two.jpg"}
        assert contents(mount, folder) == left
        (conversation,) = tree.conversations.entries.values()
        assert isinstance(conversation, Folder)
        deep = folder.entries["deep"]
        assert isinstance(deep, Folder)
        await mount.changes.unlink(deep, "empty")
        await mount.changes.rmdir(folder, "deep")
        for name in ("one.txt", "z"):
            await mount.changes.unlink(folder, name)
        await mount.changes.rmdir(conversation, folder.name)
        assert not [n for n in conversation.entries.values() if isinstance(n, MessageFolder)]
        with mount.backend.store.read() as reader:
            assert not list(reader.keys(Table.CONTENT))
            assert not list(reader.keys(Table.MESSAGES))
            assert not list(reader.keys(Table.META, b"gone "))

    run(tmp_path, body)
    run(tmp_path, again)


def test_names_from_the_network_are_escaped_and_never_collide(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        names = {"a:b": b"1", "a*b": b"2", ".hidden": b"3", "-rf": b"4", "x\n\x1b[2J": b"5"}
        folder = await arrived(mount, names)
        assert contents(mount, folder) == {
            "a_b (2)": b"1",
            "a_b": b"2",
            "_hidden": b"3",
            "_rf": b"4",
            "x__[2J": b"5",
        }

    run(tmp_path, body)


def test_views_show_a_folder_as_one_message(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await arrived(mount)
        unread = tree.root.entries["unread"]
        assert isinstance(unread, Folder)
        assert await listed(unread) == [folder.name]
        search = tree.root.entries["search"]
        assert isinstance(search, Folder)
        for words in ("two", "in", "empty from:bob"):
            found = search.entries[words]
            assert isinstance(found, Folder)
            assert await listed(found) == [folder.name]
        (conversation,) = tree.conversations.entries.values()
        assert isinstance(conversation, Folder)
        transcript = mount.read(conversation.entries["transcript"]).decode()
        assert transcript.endswith(f"bob: {folder.name} (4 files, 200009 bytes)\n")
        assert xattrs(folder, mount.backend)["user.cbfs.sender"] == "bob"
        file = folder.entries["one.txt"]
        assert mount.view.search_folders.unread.is_new(file)
        mount.view.search_folders.unread.read_up_to(file, 5)
        await until(lambda: not list(unread.entries))

    run(tmp_path, body)
