"""The id of a message belongs to its draft: who restores a backup sends nothing a second time."""

import shutil
from pathlib import Path

from cbfs.nodes import Directory, File
from tests.test_tree import Mount, run, until

LATER = 4_000_000_000 * 10**9


async def prepare(mount: Mount) -> None:
    """A letter, and a folder of photos, which wait for their date."""
    tree = mount.tree
    folder = await tree.mkdir(tree.outbox, "bob")
    letter = await mount.save(tree.tmp, "letter.txt", b"hello")
    photos = await tree.mkdir(tree.tmp, "photos")
    await mount.save(photos, "one.jpg", b"one")
    for node in (letter, photos):
        await tree.describe(node, None, LATER)
    for name in ("letter.txt", "photos"):
        await tree.rename(tree.tmp, name, folder, name, replace=False)


async def let_go(mount: Mount) -> list[tuple[bytes, bytes]]:
    """Send them: (conversation, id) of each."""
    folder = mount.tree.outbox.entries["bob"]
    assert isinstance(folder, Directory)
    for name in ("letter.txt", "photos"):
        await mount.tree.describe((folder.alias or folder).entries[name], None, 1)
        count = len(mount.backend.sent)
        await until(lambda before=count: len(mount.backend.sent) > before)  # type: ignore[misc]
    return [(message.conversation, message.id) for message, _data in mount.backend.sent]


def test_a_restored_draft_is_the_message_that_was_sent(tmp_path: Path) -> None:
    sent: list[list[tuple[bytes, bytes]]] = []

    async def send(mount: Mount) -> None:
        sent.append(await let_go(mount))

    async def change_and_send(mount: Mount) -> None:
        folder = mount.tree.outbox.entries["bob"]
        assert isinstance(folder, Directory)
        letter, photos = folder.entries["letter.txt"], folder.entries["photos"]
        assert isinstance(letter, File)
        assert isinstance(photos, Directory)
        one = photos.entries["one.jpg"]
        assert isinstance(one, File)
        for file in (letter, one):
            await mount.tree.write(file, 0, b"another")
            await mount.tree.describe(file, None, LATER)
            await mount.tree.save(file)
        sent.append(await let_go(mount))

    place, backup, other = (tmp_path / name for name in ("place", "backup", "other"))
    place.mkdir()
    run(place, prepare)
    shutil.copytree(place, backup)
    shutil.copytree(place, other)
    for where in (place, backup):
        run(where, send)
    run(other, change_and_send)
    first, again, changed = sent
    assert first == again
    assert len(set(first)) == 2
    assert {id_ for _conversation, id_ in changed}.isdisjoint(id_ for _c, id_ in first)


def test_the_same_again_is_another_message(tmp_path: Path) -> None:
    """In the second in which what was sent is there, and later."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await tree.mkdir(tree.outbox, "bob")
        file = await mount.save(folder, "hi", b"hello")
        await until(lambda: len(mount.backend.sent) == 1)
        await tree.truncate(file, 0)
        await tree.write(file, 0, b"hello")
        await until(lambda: len(mount.backend.sent) == 2)
        await mount.save(folder.alias or folder, "again", b"hello")
        await until(lambda: len(mount.backend.sent) == 3)
        assert len({message.id for message, _data in mount.backend.sent}) == 3

    run(tmp_path, body)
