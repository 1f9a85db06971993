"""What is saved on one machine in the place of what the hub has, or may have: of that and nothing
else, whatever has the name by then, and however often it was saved meanwhile."""

import errno
import stat
from pathlib import Path
from typing import Any

import pytest

from cbfs.mount.remote.handing import _ids
from cbfs.mount.remote.link import AwayError
from cbfs.mount.remote.nodes import RemoteNode, RemoteTree, local_stat
from cbfs.mount.remote.wire import BEFORE_MAX, ID_SIZE, Stat, ids_in
from tests.mount.test_remote_hub import FIRST, LATER, SECOND, THIRD, Hub, hub
from tests.support.remote_machine import BOB, CAROL, FOLDER, Machine, refused, run, until

X, Y = (bytes([number]) * ID_SIZE for number in (0xE0, 0xE1))


def draft(identity: bytes) -> Stat:
    """What a hub says of a draft."""
    return Stat(9, stat.S_IFREG | 0o600, 1, 5, 1, 1, 1, False, identity)


def answer(name: bytes, identity: bytes) -> list[Any]:
    return [name, list(draft(identity))]


# at the hub


def test_a_draft_is_known_for_ever_and_from_all_others(tmp_path: Path) -> None:
    async def first(hub: Hub) -> None:
        for identity, path in ((FIRST, b"outbox/bob/note"), (SECOND, b"outbox/bob/other")):
            _name, told = await hub.put(identity, path, b"text", modified=LATER)
            found.append(told.conversation)
        assert (await hub.put(THIRD, b"tmp/file", b"text"))[1].conversation == b""

    async def then(hub: Hub) -> None:
        for path in (b"outbox/bob/note", b"outbox/bob/other"):
            found.append(hub.files.stat(await hub.files.node(path)).conversation)

    found: list[bytes] = []
    hub(tmp_path, first)
    hub(tmp_path, then)
    assert found[:2] == found[2:]
    assert len(set(found)) == 2


def test_a_draft_is_replaced_by_its_id_and_not_by_its_name(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        _name, told = await hub.put(FIRST, b"outbox/bob/note", b"old")
        await hub.files.rename(b"outbox/bob/note", b"outbox/bob/moved", False)
        await hub.put(SECOND, b"outbox/bob/note", b"of another machine")
        put = hub.put(THIRD, b"outbox/bob/note", b"anew", replace=True, before=told.conversation)
        assert (await put)[0] == b"moved"
        assert hub.drafts() == {"note": b"of another machine", "moved": b"anew"}

    hub(tmp_path, body)


def test_nothing_foreign_is_replaced_where_the_draft_has_gone(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        _name, told = await hub.put(FIRST, b"outbox/bob/note", b"old")
        await hub.files.unlink(b"outbox/bob/note")
        await hub.put(SECOND, b"outbox/bob/note", b"of another machine")
        before = FIRST + told.conversation
        await hub.put(THIRD, b"outbox/bob/note", b"anew", replace=True, before=before)
        assert sorted(hub.drafts().values()) == [b"anew", b"of another machine"]
        assert hub.drafts()["note"] == b"of another machine"

    hub(tmp_path, body)


def test_what_has_been_replaced_does_not_come_any_more(tmp_path: Path) -> None:
    """As from a link that has ended, with what was on it still to be read."""

    async def body(hub: Hub) -> None:
        await hub.put(SECOND, b"outbox/bob/note", b"anew", before=FIRST)
        assert await hub.put(FIRST, b"outbox/bob/note", b"old") == []
        assert hub.drafts() == {"note": b"anew"}
        await hub.files.taken([SECOND, FIRST])
        assert not hub.notes()

    hub(tmp_path, body)


# on the machine


def test_what_is_saved_over_a_draft_of_the_hub_says_which(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.tree.enter(machine.bob, b"note", draft(X), 1)
        await machine.save(machine.bob, b"note", b"anew")
        item, _ = await machine.sent(1)
        assert (item.replaces, item.before) == (True, X)
        await machine.link.answer.send(answer(b"note", X))
        await until(lambda: machine.link.told)
        await machine.save(machine.bob, b"note", b"once more")
        assert (await machine.sent(2))[0].before == X

    run(tmp_path, body)


def test_what_is_moved_over_a_draft_says_which(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        machine.tree.enter(machine.carol, b"note", draft(X), 1)
        node = await machine.save(machine.bob, b"new", b"anew")
        assert await machine.handing.moved(node, machine.carol, b"note")
        assert node.outgoing is not None
        assert (node.outgoing.replaces, node.outgoing.before) == (True, X)
        # and over one that waits in the place of a draft
        machine.tree.enter(machine.bob, b"other", draft(Y), 1)
        other = await machine.save(machine.bob, b"other", b"waits")
        identity = other.outgoing.identity if other.outgoing else b""
        last = await machine.save(machine.bob, b"last", b"last")
        assert await machine.handing.moved(last, machine.bob, b"other")
        assert last.outgoing is not None
        assert last.outgoing.before == identity + Y

    run(tmp_path, body)


def test_what_is_removed_takes_no_other_file_along_that_has_its_name_by_now(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        told = X

        async def ask(*words: object) -> Any:
            machine.link.asked.append(words)
            return list(draft(told)) if words[0] == "stat" else None

        machine.link.ask = ask  # type: ignore[method-assign]
        for told in (X, Y):
            machine.link.asked.clear()
            machine.link.is_up = False
            node = machine.tree.enter(machine.bob, b"note", draft(X), 1)
            await machine.save(machine.bob, b"note", b"anew")
            machine.link.is_up = True
            assert await machine.handing.dropped(node)
            removed = ("unlink", b"outbox/bob/note") in machine.link.asked
            assert removed is (told == X)
            assert not machine.waits()

    run(tmp_path, body)


def test_what_nobody_knows_of_is_named_until_it_is_known(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        ids: list[bytes] = []
        for number in range(12):  # the link ends each time, with the file on it
            await machine.save(machine.bob, b"note", b"%d" % number)
            item, _ = await machine.sent(number + 1)
            assert ids_in(item.before) == ids[::-1]
            ids.append(item.identity)
            machine.link.is_up = False
            await machine.link.answer.send(AwayError())
            await until(lambda: not machine.handing._claims)
            machine.link.is_up = True
        node = await machine.save(machine.bob, b"note", b"last")
        item, _ = await machine.sent(13)
        assert ids_in(item.before) == ids[::-1]
        await machine.save(machine.bob, b"note", b"the very last")  # while it is on the link
        await machine.link.answer.send(answer(b"note", X))
        last, _ = await machine.sent(14)
        assert last.before == item.identity + X  # that has taken the place of all others
        await until(lambda: machine.link.told)
        assert machine.link.told == [("taken", ids[::-1])]
        await machine.link.answer.send(answer(b"note", X))
        await until(lambda: len(machine.link.told) == 2)
        assert machine.link.told[1] == ("taken", [last.identity, item.identity, X])
        assert node.stat.conversation == X

    run(tmp_path, body)


def test_what_is_removed_takes_along_what_it_was_to_replace_by_then(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        await machine.save(machine.bob, b"note", b"old")
        await machine.sent(1)
        node = await machine.save(machine.bob, b"note", b"anew")
        await machine.link.answer.send(answer(b"note", X))
        await machine.sent(2)
        await machine.link.answer.send(OSError(errno.EFBIG, ""))
        await until(lambda: node.trouble)

        async def ask(*words: object) -> Any:
            machine.link.asked.append(words)
            return list(draft(X))

        machine.link.ask = ask  # type: ignore[method-assign]
        assert await machine.handing.dropped(node)
        assert [word for word, _path in machine.link.asked] == ["stat", "unlink"]
        assert not machine.waits()

    run(tmp_path, body)


def test_more_than_can_be_named_is_refused_and_nothing_is_forgotten(tmp_path: Path) -> None:
    many = b"".join(number.to_bytes(ID_SIZE, "big") for number in range(BEFORE_MAX))

    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        node = machine.tree.make(machine.bob, b"note", local_stat(stat.S_IFREG | 0o600))
        node.before = many
        await machine.save(machine.bob, b"note", b"old")
        known = machine.handing._of(node)
        assert known is not None
        known.sent = known.unknown = True
        with refused(errno.EBUSY):
            await machine.save(machine.bob, b"note", b"anew")
        assert known.item.before == many
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"old")]
        assert _ids(many, many) == many
        with refused(errno.EBUSY):
            _ids(X, many)

    run(tmp_path, body)


# what the hub has made of it


def writing(node: RemoteNode) -> None:
    node.writing, node.writers = bytearray(b"more"), 1


@pytest.mark.parametrize("knew", [False, True])
def test_what_waits_under_the_name_that_the_hub_has_given_stays(knew: bool, tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"text")
        await machine.sent(1)
        other = await machine.save(machine.bob, b"note (2)", b"waits")
        if knew:
            writing(node)
        await machine.link.answer.send(answer(b"note (2)", X))
        item, content = await machine.sent(2)
        assert (item.path, content) == (b"outbox/bob/note (2)", b"waits")
        assert machine.bob.entries[b"note (2)"] is other
        assert not other.gone
        assert node.gone is not knew
        if knew:  # somebody writes it: what he saves is in the place of what the hub has
            first = machine.link.handed[0][0].identity
            await machine.handing.save(node, b"more")
            assert node.outgoing is not None
            assert node.outgoing.before == first
            assert not node.outgoing.replaces

    run(tmp_path, body)


def test_what_is_written_while_the_hub_had_it_already_is_in_the_place_of_that(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"text")
        first, _ = await machine.sent(1)
        writing(node)
        await machine.link.answer.send([])  # under which name, nobody says
        await until(lambda: node.outgoing is None)
        assert not machine.link.told
        await machine.handing.save(node, b"more")
        item = node.outgoing
        assert item is not None
        assert (item.before, item.replaces) == (first.identity, False)

    run(tmp_path, body)


# conversations


def test_a_folder_of_another_conversation_is_another_folder() -> None:
    tree = RemoteTree(local_stat(0o40700))
    outbox = tree.enter(tree.root, b"outbox", FOLDER, 1)
    new = tree.enter(outbox, b"bob", FOLDER, 1)
    begun = FOLDER._replace(conversation=BOB)
    assert tree.enter(outbox, b"bob", begun, 1) is new  # its conversation has begun
    other = tree.enter(outbox, b"bob", FOLDER._replace(conversation=CAROL), 1)
    assert other is not new
    assert new.gone
    assert new.stat.conversation == BOB
    tree.update(other, begun, 1)
    assert other.stat.conversation == CAROL
    assert tree.enter(outbox, b"bob", FOLDER, 1) is not other


def test_what_waits_in_a_folder_keeps_it_from_being_another_conversation(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        await machine.save(machine.bob, b"note", b"for bob")
        told = FOLDER._replace(conversation=CAROL)
        assert machine.tree.enter(machine.outbox, b"bob", told, 1) is machine.bob
        await machine.save(machine.bob, b"more", b"for bob, too")
        assert [conversation for _path, conversation, _content in machine.waits()] == [BOB, BOB]

    run(tmp_path, body)
