"""What becomes of drafts whose conversation goes on with more people."""

import time
from pathlib import Path

import trio
import trio.testing

from cbfs.interface import Outgoing
from cbfs.messages import petnames
from cbfs.messages.model import Message
from cbfs.tree.nodes import Failure, File, Folder
from tests.tree.test_tree import Mount, run, until


async def _begun(mount: Mount) -> Folder:
    """The folder under outbox/ of a conversation with bob."""
    message = await mount.backend.arrive("bob", b"hello")
    return mount.tree.folders(message.conversation)[1]


def test_what_is_being_sent_when_people_are_added_is_one_message(tmp_path: Path) -> None:
    """It goes to those who were there when it was finished, and not once more to all."""

    async def body(mount: Mount) -> None:
        drafts, send = await _begun(mount), mount.backend.send
        begun, gate = trio.Event(), trio.Event()

        async def slow(outgoing: Outgoing) -> Message:
            begun.set()
            await gate.wait()
            return await send(outgoing)

        mount.backend.send = slow  # type: ignore[method-assign]
        await mount.save(drafts, "note", b"note")
        await begun.wait()
        assert drafts.conversation is not None
        new = await mount.backend.go_on(drafts.conversation, ["carol"])
        await trio.testing.wait_all_tasks_blocked(0.05)
        gate.set()
        _folder, after = mount.tree.folders(new.id)
        await until(lambda: mount.backend.sent)
        await mount.save(after, "last", b"last")
        await until(lambda: mount.backend.sent[-1][1] == b"last")
        assert [data for _message, data in mount.backend.sent] == [b"note", b"last"]

    run(tmp_path, body)


def test_what_is_finished_when_others_add_people_waits_for_a_word(tmp_path: Path) -> None:
    """Else it would go to whom its writer did not choose: what is held until tomorrow, what was
    saved a moment ago, a folder; also over a restart. What the user adds people to is not held."""
    names = {"later", "now", "pack"}

    async def write(mount: Mount) -> None:
        tree, drafts = mount.tree, await _begun(mount)
        assert drafts.conversation is not None
        for name in ("later", "now"):
            await mount.save(drafts, name, name.encode())
        tomorrow = time.time_ns() + 86_400 * 10**9
        await mount.changes.describe(drafts.entries["later"], None, tomorrow)
        pack = await mount.changes.mkdir(tree.tmp, "pack")
        files = [await mount.save(pack, "inside", b"inside")]
        await mount.changes.rename(tree.tmp, "pack", drafts, "pack", replace=False)
        new = await mount.backend.go_on(drafts.conversation, ["carol"])
        _folder, after = tree.folders(new.id)
        files += [node for node in after.entries.values() if isinstance(node, File)]
        assert {file.failure for file in files} == {Failure.MORE}
        await until(lambda: all(file.stored == file.version for file in files))

    async def look(mount: Mount) -> None:
        (after,) = [folder for folder in mount.tree.drafts() if names <= folder.entries.keys()]
        await until(lambda: {f"{name}.error" for name in names} <= after.entries.keys())
        for name in names:
            error = mount.read(after.entries[f"{name}.error"]).decode()
            assert "others have added people since" in error
        assert not mount.backend.sent
        for name in ("now", "pack"):
            await mount.changes.rename(after, name, after, f"{name} to all", replace=False)
        later = after.entries["later"]
        assert isinstance(later, File)
        later.writers += 1
        mount.tree.contents.opened(later)
        await mount.tree.contents.truncate(later, 0)
        await mount.tree.contents.write(later, 0, b"to all")
        later.writers -= 1
        mount.tree.contents.closed(later)
        await until(lambda: len(mount.backend.sent) == 3)
        assert all(
            dict(message.recipients).keys() == {"bob", "carol"}
            for message, _data in mount.backend.sent
        )

    run(tmp_path, write, grace=1e6)
    run(tmp_path, look)


def test_one_that_has_no_folder_of_the_outbox_is_renamed(tmp_path: Path) -> None:
    """As somebody in it gets a petname, or the clock was ahead: the folder under outbox/ is that of
    the one in which it goes on."""

    async def body(mount: Mount) -> None:
        tree, drafts = mount.tree, await _begun(mount)
        assert drafts.conversation is not None
        new = await mount.backend.go_on(drafts.conversation, ["carol"])
        (old,) = [one for one in mount.backend.conversations() if one.id != new.id]
        before = set(tree.outbox.entries)
        moved = await mount.backend.store.commit(lambda w: petnames.rename(w, "bob", "", "robert"))
        for was, is_ in moved:
            mount.view.conversation_moved(was, is_)
        names = {one.folder for one in mount.backend.conversations()}
        assert tree.conversations.entries.keys() == names
        assert tree.outbox.entries.keys() == {next(name for name in names if "carol" in name)}
        assert before != tree.outbox.entries.keys()
        assert tree.conversation(old.id).folder in names

    run(tmp_path, body)
