"""A folder that is moved into the outbox is one message, whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs.outbox.rule import Draft, Hold, folder_verdict
from cbfs.storage.store import Table
from cbfs.tree.nodes import File, Folder, Text
from cbfs.tree.rules import QUIET
from cbfs.tree.virtual.conversation_folder import MessageFolder
from cbfs.tree.xattrs import xattrs
from cbfs_common.limits import FOLDER_ENTRIES_MAX
from tests.support.mounted import Watch, mounted
from tests.support.world import wait_for
from tests.tree.test_outbox import Play
from tests.tree.test_tree import Mount, refused, run, until

FILES = {"one.txt": b"first", "deep/two.jpg": os.urandom(200_000), "deep/empty": b"", "z": b"last"}


async def fill(mount: Mount, top: Folder, files: dict[str, bytes] = FILES) -> None:
    """As cp -r makes them in tmp/."""
    for path, data in files.items():
        *folders, name = path.split("/")
        here = top
        for folder in folders:
            there = here.entries.get(folder)
            here = there if isinstance(there, Folder) else await mount.changes.mkdir(here, folder)
        await mount.save(here, name, data)


async def made(mount: Mount, name: str = "photos") -> Folder:
    top = await mount.changes.mkdir(mount.tree.tmp, name)
    await fill(mount, top)
    return top


async def outbox(mount: Mount, name: str = "bob") -> Folder:
    return await mount.changes.mkdir(mount.tree.outbox, name)


async def move(mount: Mount, top: str, place: Folder) -> None:
    await mount.changes.rename(mount.tree.tmp, top, place, top, replace=False)


def contents(mount: Mount, folder: Folder, above: str = "") -> dict[str, bytes]:
    """What can be read below a folder, by path."""
    found: dict[str, bytes] = {}
    for name, node in folder.entries.items():
        if isinstance(node, Folder):
            found |= contents(mount, node, f"{above}{name}/")
        elif not isinstance(node, Text):
            found[above + name] = mount.read(node)
    return found


def shown(mount: Mount) -> MessageFolder:
    """The one folder among messages."""
    (conversation,) = mount.tree.conversations.entries.values()
    assert isinstance(conversation, Folder)
    (folder,) = [n for n in conversation.entries.values() if isinstance(n, MessageFolder)]
    return folder


def rest(mount: Mount) -> tuple[int, set[int]]:
    """(records of nodes, contents in the store)."""
    with mount.backend.store.read() as reader:
        ids = {int.from_bytes(key[:8], "big") for key in reader.keys(Table.CONTENT)}
        return reader.count(Table.NODES), ids


def test_a_folder_that_is_moved_in_is_one_message(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        await made(mount)
        bob = await outbox(mount)
        await move(mount, "photos", bob)
        await until(lambda: mount.backend.sent)
        ((message, _data),) = mount.backend.sent
        assert message.folder
        assert message.file_name == "photos"
        assert message.name.endswith("Z-alice-photos")
        assert contents(mount, shown(mount)) == FILES
        assert bob.alias is not None
        place = tree.outbox.entries[next(iter(tree.conversations.entries))]
        assert isinstance(place, Folder)
        await until(lambda: "photos" not in place.entries)
        records, ids = rest(mount)
        assert records == 0
        await until(lambda: rest(mount)[1] == {message.content.id})
        assert ids

    run(tmp_path, body)
    run(tmp_path, same_again)


async def same_again(mount: Mount) -> None:
    assert contents(mount, shown(mount)) == FILES
    assert rest(mount)[0] == 0
    assert len(rest(mount)[1]) == 1


def test_nothing_is_made_in_the_outbox_but_moved(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        bob = await outbox(mount)
        with refused(errno.EPERM):
            await mount.changes.mkdir(bob, "photos")
        assert not mount.backend.sent

    run(tmp_path, body)


def test_a_hidden_folder_is_a_place_for_what_is_not_complete(tmp_path: Path) -> None:
    """As rsync --delay-updates and --partial-dir make one."""

    async def body(mount: Mount) -> None:
        bob, changes = await outbox(mount), mount.changes
        hidden = await changes.mkdir(bob, ".~tmp~")
        await mount.save(hidden, "f", b"hello")
        await mount.save(bob, "g", b"first")
        await until(lambda: mount.backend.sent)
        assert bob.alias is not None
        assert hidden.folder_draft is not None
        assert "a hidden folder" in hidden.folder_draft.hold
        await changes.rename(hidden, "f", bob.alias, "f", replace=False)
        await until(lambda: [data for _message, data in mount.backend.sent] == [b"first", b"hello"])
        await mount.save(hidden, "left", b"over")

    async def again(mount: Mount) -> None:
        """What a program that was killed has left there is held, and can be sent."""
        (drafts,) = mount.tree.drafts()
        hidden = drafts.entries[".~tmp~"]
        assert isinstance(hidden, Folder)
        assert hidden.folder_draft is not None
        await until(lambda: hidden.folder_draft and "a hidden folder" in hidden.folder_draft.hold)
        assert not mount.backend.sent
        await mount.changes.rename(drafts, ".~tmp~", drafts, "found", replace=False)
        await until(lambda: mount.backend.sent)
        assert contents(mount, shown(mount)) == {"left": b"over"}

    run(tmp_path, body)
    run(tmp_path, again)


def test_a_hidden_folder_is_told_of_when_its_program_has_ended() -> None:
    def held(*, lives: bool) -> Hold:
        draft = Draft(".~tmp~", 1, True, 0, None, 0.0, 0.0, held=lives)
        hold = folder_verdict(draft, (), QUIET + 1, 0.0, 1.0, Play())
        assert hold is not None
        return hold

    assert held(lives=True).tell > 0
    assert held(lives=False).tell == 0
    assert "rename it" in held(lives=False).hint


def test_it_waits_for_who_writes_in_it(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        top = await made(mount)
        file = top.entries["one.txt"]
        assert isinstance(file, File)
        file.writers += 1
        file.handles += 1
        await move(mount, "photos", await outbox(mount))
        assert top.folder_draft is not None
        await until(lambda: top.folder_draft and "is open for writing" in top.folder_draft.hold)
        assert xattrs(top, mount.backend)["user.cbfs.state"].startswith("one.txt in it")
        await mount.tree.contents.write(file, 0, b"FIRST")
        await mount.close(file)
        await until(lambda: mount.backend.sent)
        assert contents(mount, shown(mount)) == FILES | {"one.txt": b"FIRST"}
        assert len(mount.backend.sent) == 1

    run(tmp_path, body)


def test_it_is_taken_back_by_any_change_while_it_is_being_sent(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree, gate = mount.tree, trio.Event()
        mount.backend.gate = lambda: gate
        top = await made(mount)
        bob = await outbox(mount)
        await move(mount, "photos", bob)
        await until(lambda: top.folder_draft and top.folder_draft.sending)
        one = top.entries["one.txt"]
        assert isinstance(one, File)
        deep = top.entries["deep"]
        assert isinstance(deep, Folder)

        async def change(number: int) -> None:
            if number == 0:
                await tree.contents.write(one, 0, b"other")
                await tree.contents.save(one)
            elif number == 1:
                await mount.changes.unlink(deep, "empty")
            elif number == 2:
                await mount.changes.ready(top)
                await mount.save(top, "more", b"more")
            elif number == 3:
                await mount.changes.mkdir(deep, "deeper")
            elif number == 4:
                await mount.changes.rename(top, "z", deep, "zz", replace=False)
            else:
                await mount.changes.rename(bob, "photos", tree.tmp, "back", replace=False)

        for number in range(6):
            await until(lambda: top.folder_draft and top.folder_draft.sending)
            await change(number)
            assert not mount.backend.sent
        assert contents(mount, top) == {
            "one.txt": b"other",
            "deep/two.jpg": FILES["deep/two.jpg"],
            "deep/zz": b"last",
            "more": b"more",
        }
        gate.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not mount.backend.sent
        await until(lambda: len(rest(mount)[1]) == 4)  # no copy is left

    run(tmp_path, body)


def test_a_sent_folder_cannot_change_while_it_is_still_there(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        top = await made(mount)
        bob = await outbox(mount)
        await move(mount, "photos", bob)
        await until(lambda: mount.backend.sent)
        place = bob.alias or bob
        one = top.entries["one.txt"]
        assert isinstance(one, File)
        with refused(errno.EACCES):
            await tree.contents.write(one, 0, b"x")
        with refused(errno.EACCES):
            await tree.contents.truncate(one, 0)
        with refused(errno.EACCES):
            await mount.changes.unlink(top, "one.txt")
        with refused(errno.EACCES):
            mount.changes.create(top, "new", 0o600, None)
        with refused(errno.EACCES):
            await mount.changes.mkdir(top, "new")
        with refused(errno.EACCES):
            await mount.changes.rename(place, "photos", tree.tmp, "photos", replace=False)
        with refused(errno.EACCES):
            await mount.changes.rename(top, "one.txt", tree.tmp, "one", replace=False)
        assert mount.read(one) == b"first"

    run(tmp_path, body)


def test_a_reader_keeps_what_it_has_open(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        top = await made(mount)
        one = top.entries["one.txt"]
        assert isinstance(one, File)
        one.handles += 1
        await move(mount, "photos", await outbox(mount))
        await until(lambda: not top.names)
        await until(lambda: not one.names)
        assert mount.read(one) == b"first"
        await until(lambda: len(rest(mount)[1]) == 2)
        one.handles -= 1
        await mount.tree.contents.released(one)
        assert len(rest(mount)[1]) == 1

    run(tmp_path, body)


def test_a_file_with_a_name_elsewhere_stays_there(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        top = await made(mount)
        one = top.entries["one.txt"]
        await mount.changes.link(one, tree.tmp, "kept")
        await mount.changes.link(one, top, "again")
        await move(mount, "photos", await outbox(mount))
        await until(lambda: mount.backend.sent)
        assert contents(mount, shown(mount)) == FILES | {"again": b"first"}
        await until(lambda: not top.names)
        assert mount.read(tree.tmp.entries["kept"]) == b"first"
        assert rest(mount)[0] == 1

    run(tmp_path, body)


def test_what_cannot_be_sent_is_told_beside_it(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        top = await made(mount)
        bob = await outbox(mount)
        await mount.changes.symlink(top, "link", "one.txt", None)
        await move(mount, "photos", bob)
        await until(lambda: "photos.error" in bob.entries)
        assert b"link is a link" in mount.read(bob.entries["photos.error"])
        assert "link is a link" in xattrs(top, mount.backend)["user.cbfs.error"]
        await mount.changes.unlink(top, "link")
        await until(lambda: mount.backend.sent)
        assert "photos.error" not in (bob.alias or bob).entries
        empty = await mount.changes.mkdir(tree.tmp, "empty")
        await move(mount, "empty", bob.alias or bob)
        await until(lambda: empty.folder_draft and empty.folder_draft.hold)
        assert empty.folder_draft is not None
        assert empty.folder_draft.hold == "it is empty"
        assert len(mount.backend.sent) == 1

    run(tmp_path, body)


def test_what_is_made_empty_is_told_of_only_when_it_rests(tmp_path: Path) -> None:
    """Editors make a file to see whether they may, and remove it."""

    async def body(mount: Mount) -> None:
        bob = await outbox(mount)
        probe = mount.changes.create(bob, "4913", 0o600, None)
        mount.tree.contents.closed(probe)
        await until(lambda: probe.hold)
        assert probe.hold == "it is empty"
        assert "4913.error" not in bob.entries

    run(tmp_path, body)


def test_too_much_is_told(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        bob = await outbox(mount)
        top = await mount.changes.mkdir(tree.tmp, "many")
        for number in range(FOLDER_ENTRIES_MAX + 1):
            mount.changes.create(top, f"{number}", 0o600, None)
        await move(mount, "many", bob)
        await until(lambda: "many.error" in bob.entries)
        assert b"too much" in mount.read(bob.entries["many.error"])
        deep = here = await mount.changes.mkdir(tree.tmp, "deep")
        for _ in range(300):
            here = await mount.changes.mkdir(here, "d")
        await mount.save(here, "f", b"x")
        await move(mount, "deep", bob)
        await until(lambda: "deep.error" in bob.entries)
        assert deep.folder_draft is not None
        assert "too deep" in deep.folder_draft.error
        assert not mount.backend.sent

    run(tmp_path, body)


def test_a_crash_leaves_a_draft_or_a_message(tmp_path: Path) -> None:
    """The mount ends while it is being sent: it is sent by the next one, once."""

    async def first(mount: Mount) -> None:
        mount.backend.gate = trio.Event
        top = await made(mount)
        await move(mount, "photos", await outbox(mount, "bob,carol lunch"))
        await until(lambda: top.folder_draft and top.folder_draft.sending)
        await until(lambda: len(rest(mount)[1]) == 4)  # with the copy

    async def second(mount: Mount) -> None:
        (bob,) = mount.tree.outbox.entries.values()
        assert isinstance(bob, Folder)
        top = bob.entries.get("photos") or (bob.alias or bob).entries.get("photos")
        await until(lambda: mount.backend.sent)
        assert isinstance(top, Folder)
        assert contents(mount, shown(mount)) == FILES
        await until(lambda: not top.names)
        assert len(mount.backend.sent) == 1

    run(tmp_path, first)
    run(tmp_path, second)
    run(tmp_path, same_again)


def test_what_goes_with_the_first_message_of_a_folder_is_kept(tmp_path: Path) -> None:
    """A second folder, held by its date, moves along when the conversation begins."""

    async def body(mount: Mount) -> None:
        later = await made(mount, "later")
        await mount.changes.describe(later, None, 2**62)
        bob = await outbox(mount)
        await move(mount, "later", bob)
        await mount.save(bob, "hello.txt", b"hello")
        await until(lambda: mount.backend.sent)
        assert (bob.alias or bob).entries["later"] is later
        await until(lambda: later.folder_draft and later.folder_draft.hold.startswith("held until"))

    async def again(mount: Mount) -> None:
        (place,) = mount.tree.outbox.entries.values()
        assert isinstance(place, Folder)
        later = place.entries["later"]
        assert isinstance(later, Folder)
        assert contents(mount, later) == FILES
        await until(lambda: later.folder_draft and later.folder_draft.hold.startswith("held until"))
        assert not mount.backend.sent

    run(tmp_path, body)
    run(tmp_path, again)


# through FUSE


@pytest.mark.mount
def test_programs_move_a_folder_in_and_find_it_again() -> None:
    with mounted() as mount:
        mount.run("mkdir outbox/bob tmp/photos tmp/photos/deep; echo one >tmp/photos/one")
        mount.run("head -c 300000 /dev/urandom >tmp/photos/deep/two; cp -a tmp/photos tmp/copy")
        watch = Watch(mount.path / "conversations")
        try:
            mount.run("mv tmp/photos outbox/bob/")
            watch.wait("-alice-bob")
        finally:
            watch.close()
        top = wait_for(
            lambda: next(iter(mount.path.glob("conversations/*/*Z-alice-photos")), None), "it"
        )
        assert stat.S_ISDIR(top.stat().st_mode)
        mount.run(f"diff -r tmp/copy '{top}'")
        wait_for(lambda: not list(mount.path.glob("outbox/bob/photos")) or None, "it to leave")
        with pytest.raises(PermissionError):
            (mount.path / "outbox" / "bob" / "made").mkdir()
        for path in (top / "one", top / "deep"):
            with pytest.raises(OSError) as raised:
                path.rename(mount.path / "tmp" / "x")
            assert raised.value.errno == errno.EXDEV  # mv then copies
        with pytest.raises(PermissionError):
            (top / "one").write_text("x")
        mount.run(f"rm -r '{top}/deep'; ls '{top}'")
        assert [path.name for path in top.iterdir()] == ["one"]
        mount.run(f"rm -r '{top}'")
        assert not top.exists()
        assert "could not be shown" not in mount.log()
        assert "failed" not in mount.log()
