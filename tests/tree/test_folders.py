"""Directories that are read when somebody looks: places, what is not shown yet, what is dropped."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import Folder, MessageFile, Node
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.virtual.conversation_folder import Unseen
from cbfs.tree.virtual.virtual_directory import AT_ONCE, DOTS, PAGE, Listing, inode_for
from tests.bench.at_size import make_account, text_of
from tests.support.mounted import mounted
from tests.support.world import wait_for
from tests.tree.test_tree import Mount, run, until


@given(st.integers(0, 5), st.permutations(range(1, 9)), st.data())
def test_a_message_is_seen_once_it_is_revealed(
    newest: int, order: list[int], data: st.DataObject
) -> None:
    unseen = Unseen(newest)
    shown = set(range(1, newest + 1))
    announced = []
    for step in order:
        unseen.announce(newest + step)
        announced.append(newest + step)
        if data.draw(st.booleans()):
            shown.add(announced[0])
            unseen.reveal(announced.pop(0))
        assert {serial for serial in range(1, newest + 10) if serial not in unseen} == shown


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(1, 3)), max_size=40))
def test_inodes_are_kept_while_the_kernel_knows_them(steps: list[tuple[int, bool, int]]) -> None:
    root = Folder(100, Area.FIXED, 0)
    inodes = Inodes(root)
    nodes = {number: Node(number, 0, 0) for number in range(1, 5)}
    counts = dict.fromkeys(nodes, 0)
    for number, told, times in steps:
        if told:
            inodes.count(nodes[number])
            counts[number] += 1
        else:
            taken = min(times, counts[number])
            inodes.forget(number, taken)
            counts[number] -= taken
        for inode, count in counts.items():
            assert (inodes.get(inode) is nodes[inode]) is (count > 0)
    assert inodes.get(100) is root


def test_inode_numbers_of_ids_are_apart() -> None:
    found = {inode_for(b"a", b"b"), inode_for(b"ab", b""), inode_for(b"ab"), inode_for(b"", b"ab")}
    assert len(found) == 4
    assert all(1 << 62 <= inode < 1 << 63 for inode in found)


def names(listing: Listing, start: int, count: int) -> tuple[list[str], int]:
    """What a call of readdir with room for ``count`` entries gives, and where the next begins."""
    found: list[str] = []
    for place, name, _node in listing.after(start):
        if len(found) == count:
            break
        found.append(name)
        start = place
    return found, start


def test_a_folder_is_listed_in_pieces_while_it_changes(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        count = PAGE + 50
        messages = [await mount.backend.arrive("bob", b"%d" % i) for i in range(count)]
        folder, _ = mount.tree.folders(messages[0].conversation)
        listing = Listing(folder)
        first, place = names(listing, 0, 13)
        assert first == [".", "..", *(m.name for m in messages[:11])]
        for gone in (messages[3], messages[11], messages[PAGE + 20]):
            await mount.changes.unlink(folder, gone.name)
        late = await mount.backend.arrive("bob", b"late")
        rest: list[str] = []
        while True:
            some, place = names(listing, place, 7)
            if not some:
                break
            rest += some
        left = [m.name for m in messages[12:] if m is not messages[PAGE + 20]]
        assert rest == [*left, late.name, "metadata.toml", "transcript"]  # rm -r goes in this order
        again, _ = names(listing, 0, 8)
        left = [m.name for i, m in enumerate(messages[:7]) if i != 3]
        assert again == [".", "..", *left]

    run(tmp_path, body)


def test_of_many_folders_few_are_told_at_once() -> None:
    """Each takes a look into the store, and others wait for it."""
    root = Folder(100, Area.FIXED, 0)
    count = 5 * AT_ONCE + AT_ONCE // 2
    for number in range(count):
        root.enter(f"{number:04}", Folder(101 + number, Area.FIXED, 0))
    listing, place = Listing(root), 0
    answers: list[list[str]] = []
    while some := list(listing.some_after(place)):
        answers.append([name for _place, name, _node in some])
        place = some[-1][0]
    assert max(map(len, answers)) == AT_ONCE
    assert [name for some in answers for name in some] == [*DOTS, *root.entries]


def test_of_many_messages_as_many_are_told_as_there_is_room_for(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        messages = [await mount.backend.arrive("bob", b"%d" % i) for i in range(2 * AT_ONCE)]
        folder, _ = mount.tree.folders(messages[0].conversation)
        told = [name for _place, name, _node in Listing(folder).some_after(0)]
        assert told[len(DOTS) : -2] == [message.name for message in messages]

    run(tmp_path, body)


def test_what_is_gone_is_gone(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        message = await mount.backend.arrive("bob", b"hello")
        folder, _ = mount.tree.folders(message.conversation)
        node = folder.entries[message.name]
        assert isinstance(node, MessageFile)
        with pytest.raises(TreeError):
            await mount.changes.unlink(folder, "metadata.toml")
        await mount.changes.unlink(folder, message.name)
        assert message.name not in folder.entries
        with pytest.raises(TreeError):
            mount.tree.lookup(folder, message.name)
        with pytest.raises(TreeError):
            await folder.provider.remove(message.name, node)
        await mount.changes.unlink(folder, "metadata.toml")  # all messages are gone
        assert "metadata.toml" not in folder.entries

    run(tmp_path, body)


def test_the_newest_message_dates_its_folder(tmp_path: Path) -> None:
    async def arrive(mount: Mount) -> None:
        for sender in ("bob", "carol"):
            await mount.backend.arrive(sender, b"hello")
        await mount.backend.arrive("bob", b"again")

    async def look(mount: Mount) -> None:
        for conversation in mount.backend.conversations():
            folder, _ = mount.tree.folders(conversation.id)
            newest = mount.backend.messages(conversation.id)[-1]
            assert folder.modified_ns == newest.received * 1_000_000
        await until(lambda: True)

    run(tmp_path, arrive)
    run(tmp_path, look)


def test_nothing_is_lost_among_many() -> None:
    with mounted() as mount:
        mount.unmount()
        make_account(mount.account, conversations=3, messages=2_000)
        mount.mount()
        folders = sorted((mount.path / "conversations").iterdir())
        assert len(folders) == 3
        found = [path for folder in folders for path in folder.iterdir() if "Z-" in path.name]
        assert len(found) == 2_000
        texts = sorted(path.read_bytes() for path in found)
        assert texts == sorted(text_of(number) for number in range(2_000))
        inodes = {path.stat().st_ino for path in found}
        assert len(inodes) == 2_000
        mount.run("find conversations -name '*Z-*' -delete")
        wait_for(lambda: len(list(folders[0].iterdir())) == 2, "the folder to be empty")
        left = subprocess.run(["ls", folders[0]], capture_output=True, text=True, check=True)
        assert left.stdout == "metadata.toml\ntranscript\n"
