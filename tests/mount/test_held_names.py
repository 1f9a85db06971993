"""Names that programs use for what is no document: what has one is held and never lost, and after a
minute it is told why it is not sent. Names of backups are others where there is no original."""

import time
from pathlib import Path

import pytest

from cbfs.tree.nodes import File, Folder, SymbolicLink, Text
from cbfs.tree.rules import QUIET
from tests.support.mounted import mounted
from tests.support.world import wait_for
from tests.tree.test_tree import Mount, run, until

DAYS = 90_000 * 10


def pass_time(mount: Mount, seconds: float = QUIET) -> None:
    """Let the outbox be as if it had been left alone for so long."""
    for folder in mount.tree.outbox.entries.values():
        if not isinstance(folder, Folder):
            continue
        folder.left = {name: left - seconds for name, left in folder.left.items()}
        for node in folder.entries.values():
            node.changed_ns -= int(seconds * 1e9)
            node.mtime_ns -= int(seconds * 1e9)
            if isinstance(node, File):
                node.changed -= seconds
            elif isinstance(node, Folder) and node.folder_draft is not None:
                node.folder_draft.changed -= seconds
    mount.view.retry()


def errors(folder: Folder) -> set[str]:
    return {name for name, node in folder.entries.items() if isinstance(node, Text)} - {
        "metadata.toml"
    }


async def moved_in(mount: Mount, folder: Folder, name: str, data: bytes = b"content") -> File:
    """As mv does it."""
    file = await mount.save(mount.tree.tmp, name, data)
    await mount.changes.rename(mount.tree.tmp, name, folder, name, replace=True)
    return file


@pytest.mark.parametrize("name", ["backup.bak", "letter~", "a.orig", "a.save", "a.rej", "b.~3~"])
def test_a_backup_of_nothing_is_a_document(tmp_path: Path, name: str) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await moved_in(mount, folder, name)
        await until(lambda: mount.backend.sent)

    run(tmp_path, body)


@pytest.mark.parametrize("name", ["2026", "12345", "4913"])
def test_a_number_with_content_is_a_document(tmp_path: Path, name: str) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        await moved_in(mount, folder, name)
        await until(lambda: mount.backend.sent)

    run(tmp_path, body)


HELD = {
    "video.part": "download",
    "VIDEO.CRDOWNLOAD": "download",
    "notes.tmp": "temporary",
    "sedentary": "temporary",
    ".bashrc": "hidden",
    "build.error": "error file",
    "Cargo.lock": "lock",
    "~$letter.docx": "lock",
    "#letter#": "rescue",
    "DEADJOE": "temporary",
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_by_its_name_is_told_and_stays_and_goes_when_renamed(
    tmp_path: Path, name: str
) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = await moved_in(mount, folder, name)
        await until(lambda: file.hold)
        assert not errors(folder)
        pass_time(mount)
        await until(lambda: errors(folder) == {f"{name}.error"})
        text = folder.entries[f"{name}.error"]
        assert isinstance(text, Text)
        assert HELD[name] in text.render().decode()
        assert "rename it to send it, or rm it" in text.render().decode()
        assert f"bob/{name}: " in mount.view.status.render().decode()
        pass_time(mount, DAYS)
        await mount.changes.unlink(folder, f"{name}.error")  # it is not told twice
        pass_time(mount, DAYS)
        await until(lambda: not errors(folder))
        assert folder.entries[name] is file
        assert mount.read(file) == b"content"
        await mount.changes.rename(folder, name, folder, "document", replace=True)
        await until(lambda: mount.backend.sent)
        assert f"bob/{name}: " not in mount.view.status.render().decode()

    run(tmp_path, body)


def test_what_goes_on_is_not_told(tmp_path: Path) -> None:
    """A download that went on after a pause; one that is open; one that is given up by rm."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        file = await moved_in(mount, folder, "video.part")
        pass_time(mount)
        await until(lambda: errors(folder))
        file.writers += 1
        file.handles += 1
        await tree.contents.write(file, 0, b"more")
        await until(lambda: not errors(folder))
        pass_time(mount)
        await until(lambda: "video.part" in mount.view.status.render().decode())
        assert not errors(folder)
        await mount.close(file)
        await until(lambda: errors(folder))
        await mount.changes.unlink(folder, "video.part")
        await until(lambda: not folder.entries)

    run(tmp_path, body)


def test_an_empty_file_and_a_link_are_told(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "empty", b"")
        await mount.changes.symlink(folder, "link", "empty", None)
        await mount.changes.symlink(folder, ".#empty", "me@host.1", None)
        top = await mount.changes.mkdir(tree.tmp, "photos")
        await mount.changes.rename(tree.tmp, "photos", folder, "photos", replace=False)
        pass_time(mount)
        await until(lambda: errors(folder) == {"empty.error", "link.error", "photos.error"})
        status = mount.view.status.render().decode()
        assert all(f"bob/{name}: " in status for name in ("empty", "link", "photos"))
        await mount.changes.unlink(folder, "link.error")
        await mount.save(top, "one", b"one")
        await until(lambda: mount.backend.sent)
        assert "link.error" not in folder.entries

    run(tmp_path, body)


def test_a_backup_is_held_beside_its_file_and_when_that_has_gone(tmp_path: Path) -> None:
    """It came to be as one, so that it never is a message by itself; a day later it is there."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(tree.tmp, "letter", b"old")
        node = tree.tmp.entries["letter"]
        await mount.changes.describe(node, None, 4_000_000_000 * 10**9)
        await mount.changes.rename(tree.tmp, "letter", folder, "letter", replace=True)
        await mount.changes.rename(folder, "letter", folder, "letter~", replace=True)
        await mount.changes.describe(node, None, 1)
        await mount.save(folder, "letter", b"new")
        await until(lambda: [data for _m, data in mount.backend.sent] == [b"new"])
        drafts = folder.alias or folder
        await until(lambda: "letter" not in drafts.entries)
        assert not errors(drafts)
        pass_time(mount)
        await until(lambda: errors(drafts) == {"letter~.error"})

    async def after(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        _folder, drafts = mount.tree.folders(conversation.id)
        await until(lambda: errors(drafts) == {"letter~.error"})
        assert mount.read(drafts.entries["letter~"]) == b"old"
        assert not mount.backend.sent
        await mount.changes.rename(drafts, "letter~", drafts, "old letter", replace=True)
        await until(lambda: [data for _m, data in mount.backend.sent] == [b"old"])

    run(tmp_path, body)
    run(tmp_path, after)


def test_what_file_managers_leave_is_neither_sent_nor_told(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        names = [".DS_Store", "._photo.jpg", ".directory", "Thumbs.db", "desktop.ini"]
        files = [await moved_in(mount, folder, name) for name in names]
        pass_time(mount)
        await until(lambda: all(file.hold for file in files))
        await mount.save(folder, "last", b"last")
        await until(lambda: mount.backend.sent)
        assert len(mount.backend.sent) == 1
        assert not errors(folder.alias or folder)

    run(tmp_path, body)


def test_nothing_of_a_day_before_is_removed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, ".letter.swp", b"old")
        await mount.save(folder, "4913", b"")
        link = await mount.changes.symlink(folder, ".#letter", "alice@host.1", None)
        assert isinstance(link, SymbolicLink)
        link.changed_ns = time.time_ns() - DAYS * 10**9
        pass_time(mount, DAYS)
        await until(lambda: len(errors(folder)) == 2)
        assert {".letter.swp", "4913", ".#letter"} <= set(folder.entries)

    run(tmp_path, body)


@pytest.mark.mount
def test_mv_of_several() -> None:
    with mounted("grace=0.2") as mount:
        mount.run(
            "mkdir outbox/bob; cd tmp; for f in 2026 backup.bak video.part notes.tmp; do"
            " echo $f >$f; done; mv 2026 backup.bak video.part notes.tmp ../outbox/bob/"
        )
        mount.wait_messages("2026\n", "backup.bak\n")
        assert mount.unmount() == 0
        mount.mount()  # nobody knows when they have last been changed
        (folder,) = (mount.path / "outbox").iterdir()
        wait_for(lambda: len(list(folder.glob("*.error"))) == 2 or None, "the error files")
        status = (mount.path / "status").read_text()
        assert "video.part: " in status
        assert "notes.tmp: " in status
        mount.run(f"mv '{folder}/notes.tmp' '{folder}/notes'")
        mount.wait_messages("2026\n", "backup.bak\n", "notes.tmp\n")
