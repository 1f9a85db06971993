"""Names that the daemon derives from others, or gives by itself, in the outbox: never too long,
never in the place of something else, never leading nowhere."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.messages.file_names import error_file_name, free_name
from cbfs.tree.nodes import File, Folder, SymbolicLink, Text
from cbfs.tree.texts import README
from tests.support.fake_backend import NOBODY
from tests.support.mounted import mounted
from tests.support.world import wait_for
from tests.tree.test_tree import Mount, run, until

LATER = 4_000_000_000 * 10**9

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)
long_names = names.map(lambda text: text * 255)


async def save_held(mount: Mount, folder: Folder, name: str, data: bytes) -> None:
    """Held by its date."""
    draft = await mount.save(mount.tree.tmp, name, data)
    await mount.changes.describe(draft, None, LATER)
    await mount.changes.rename(mount.tree.tmp, name, folder, name, replace=False)


@given(names | long_names, st.sets(st.integers(2, 6)))
def test_derived_names_fit_and_are_free(name: str, numbers: set[int]) -> None:
    name = name.encode()[:255].decode(errors="ignore") or "x"
    taken = {name, f"{name}.error", *(f"{name} ({n})" for n in numbers)}
    for derive in (error_file_name, free_name):
        there = set(taken)
        for _ in range(8):
            made = derive(name, there.__contains__)
            assert made not in there
            assert 1 <= len(made.encode()) <= 255
            there.add(made)
        assert derive is not error_file_name or made.endswith(".error")


def test_an_error_file_takes_no_place_of_the_users(tmp_path: Path) -> None:
    """Names of 255 bytes, in letters of several bytes, and one whose error name is taken."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, NOBODY)
        names = ["x" * 255, "x" * 254 + "y", "é" * 127, "f"]
        await mount.save(folder, "f.error", b"the user's own")
        drafts = [await mount.save(folder, name, b"draft") for name in names]
        await until(lambda: all(draft.error for draft in drafts))
        told = [name for name, node in folder.entries.items() if isinstance(node, Text)]
        assert len(told) == len(set(told)) == 4
        assert all(len(name.encode()) <= 255 and name.endswith(".error") for name in told)
        assert isinstance(folder.entries["f.error"], File)
        for name in told:
            await mount.changes.unlink(folder, name)
        assert set(folder.entries) == {*names, "f.error"}
        await mount.changes.rename(folder, "f", folder, "g", replace=True)
        await until(lambda: "g.error" in folder.entries)
        await mount.changes.unlink(folder, "g")
        await until(lambda: "g.error" not in folder.entries)

    run(tmp_path, body)


def test_a_folders_error_file_fits_too(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        name = f"{NOBODY} {'x' * 248}"
        folder = await mount.changes.mkdir(tree.outbox, name)
        await mount.save(folder, "f", b"draft")
        await until(lambda: len(tree.outbox.entries) == 2)
        (told,) = [name for name, node in tree.outbox.entries.items() if isinstance(node, Text)]
        assert len(told.encode()) <= 255
        await mount.changes.rename(tree.outbox, name, tree.outbox, "bob", replace=True)
        await until(lambda: mount.backend.sent and told not in tree.outbox.entries)

    run(tmp_path, body)


@pytest.mark.mount
def test_the_error_file_of_a_255_byte_name_can_be_removed() -> None:
    with mounted() as mount:
        name = "ä" * 127 + "x"
        assert len(name.encode()) == 255
        mount.run(f"mkdir outbox/{NOBODY}; echo hello > outbox/{NOBODY}/{name}")
        folder = mount.path / "outbox" / NOBODY
        wait_for(lambda: len(list(folder.iterdir())) == 2 or None, "the error file")
        mount.run(f"cat outbox/{NOBODY}/*.error; rm outbox/{NOBODY}/*.error outbox/{NOBODY}/{name}")
        mount.run(f"rmdir outbox/{NOBODY}")


def test_the_users_name_leads_to_a_conversation_that_is_renamed(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: isinstance(tree.outbox.entries["bob"], SymbolicLink))
        (old,) = mount.backend.conversations()
        new = replace(old, folder=old.folder.replace("bob", "bobby"))
        mount.view.conversation_moved(old, new)
        link = tree.outbox.entries["bob"]
        assert isinstance(link, SymbolicLink)
        assert link.target == new.folder
        assert tree.outbox.entries[link.target] is folder.alias

    run(tmp_path, body)


def test_what_is_moved_together_keeps_both(tmp_path: Path) -> None:
    """bob has begun the conversation that alice begins: both folders have a file of one name."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        message = await mount.backend.arrive("bob", b"hello", "")
        _folder, drafts = tree.folders(message.conversation)
        await save_held(mount, drafts, "plan", b"first")
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await save_held(mount, folder, "plan", b"second")
        await mount.save(folder, "hi", b"hello")
        await until(lambda: folder.alias is drafts)
        kept = {mount.read(node) for node in drafts.entries.values() if isinstance(node, File)}
        assert {b"first", b"second"} <= kept

    async def again(mount: Mount) -> None:
        (conversation,) = mount.backend.conversations()
        _folder, drafts = mount.tree.folders(conversation.id)
        kept = {mount.read(node) for node in drafts.entries.values() if isinstance(node, File)}
        assert {b"first", b"second"} <= kept

    run(tmp_path, body)
    run(tmp_path, again)


def test_a_folder_of_the_users_makes_room_for_a_conversation(tmp_path: Path) -> None:
    """It is called as the conversation will be that bob begins, or that is begun in itself."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        sent = await mount.backend.arrive("carol", b"hello", "")
        name = tree.conversation(sent.conversation).folder.replace("carol", "bob")
        folder = await mount.changes.mkdir(tree.outbox, name)
        await save_held(mount, folder, "draft", b"draft")
        await mount.backend.arrive("bob", b"hello", "")
        kept = [n for n, node in tree.outbox.entries.items() if node is folder]
        assert kept == [f"{name} (2)"], list(tree.outbox.entries)
        assert isinstance(tree.outbox.entries[name], Folder)
        assert tree.outbox.entries[name] is not folder

    async def again(mount: Mount) -> None:
        kept = [n for n in mount.tree.outbox.entries if n.endswith(" (2)")]
        assert len(kept) == 1
        folder = mount.tree.outbox.entries[kept[0]]
        assert isinstance(folder, Folder)
        assert "draft" in folder.entries

    run(tmp_path, body)
    run(tmp_path, again)


def test_the_readme_of_the_mount_has_each_line_where_it_belongs() -> None:
    lines = README.splitlines()
    delete = next(i for i, line in enumerate(lines) if line.startswith("Delete "))
    assert "lifetime" in lines[delete + 1]
    assert lines[delete + 1].startswith(" ")
