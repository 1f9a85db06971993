"""What a hub refuses that may be there all the same, by an earlier try whose answer was lost: that
is asked for before anything is dropped or sent once more."""

import errno
from pathlib import Path
from typing import Any

import pytest
import trio

from cbfs.mount.remote.link import AwayError
from cbfs.mount.remote.nodes import RemoteNode
from cbfs.mount.remote.spool import WaitingFile
from tests.support.remote_machine import BOB, CAROL, Machine, made, refused, run, until

CHANGES = ["moved", "described", "dropped"]


async def lost_and_refused(machine: Machine) -> tuple[RemoteNode, WaitingFile]:
    """A file whose first answer was lost, and that is refused then."""
    node = await machine.save(machine.bob, b"note", b"for bob")
    first, _ = await machine.sent(1)
    await machine.link.answer.send(AwayError())
    await until(lambda: not machine.handing._claims)
    machine.handing.wake()
    await machine.sent(2)
    await machine.link.answer.send(OSError(errno.EDQUOT, ""))
    await until(lambda: node.trouble)
    assert machine.link.again == [False, True]
    return node, first


def change(machine: Machine, what: str, node: RemoteNode) -> Any:
    arguments = {
        "moved": (node, machine.carol, b"note"),
        "described": (node, 0o640, 2 * 10**18),
        "dropped": (node,),
    }
    return getattr(machine.handing, what)(*arguments[what])


@pytest.mark.parametrize("what", CHANGES)
def test_what_an_earlier_try_may_have_made_is_withdrawn_before_it_is_changed(
    what: str, tmp_path: Path
) -> None:
    async def body(machine: Machine) -> None:
        node, first = await lost_and_refused(machine)
        assert await change(machine, what, node)
        assert machine.link.asked == [("withdraw", first.identity)]
        waits = {
            "moved": [(b"outbox/carol/note", CAROL, b"for bob")],
            "described": [(b"outbox/bob/note", BOB, b"for bob")],
            "dropped": [],
        }
        assert machine.waits() == waits[what]

    run(tmp_path, body)


@pytest.mark.parametrize("what", CHANGES)
def test_what_an_earlier_try_has_sent_is_not_sent_again(what: str, tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node, first = await lost_and_refused(machine)
        machine.link.gone = first.identity
        assert not await change(machine, what, node)  # it is the hub's: who asked asks that
        assert not machine.waits()
        assert not machine.handing.count
        assert len(machine.link.handed) == 2

    run(tmp_path, body)


@pytest.mark.parametrize("what", CHANGES)
def test_where_the_hub_does_not_say_nothing_is_changed(what: str, tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node, _first = await lost_and_refused(machine)
        machine.link.is_up = False
        with refused(errno.EBUSY):
            await change(machine, what, node)
        machine.link.is_up, machine.link.gone = True, b"no ids"
        with refused(errno.EBUSY):
            await change(machine, what, node)
        assert machine.waits() == [(b"outbox/bob/note", BOB, b"for bob")]
        assert node.above is machine.bob

    run(tmp_path, body)


def test_what_is_newer_and_refused_takes_the_older_one_back_with_it(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"first")
        first, _ = await machine.sent(1)
        await machine.save(machine.bob, b"note", b"second")
        await machine.link.answer.send(AwayError())
        second, _ = await machine.sent(2)
        await machine.link.answer.send(OSError(errno.EDQUOT, ""))
        await until(lambda: node.trouble)
        assert await machine.handing.dropped(node)
        assert machine.link.asked == [("withdraw", second.identity + first.identity)]
        assert not machine.waits()

    run(tmp_path, body)


def test_what_is_moved_over_takes_along_what_that_was_in_the_place_of(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        await machine.save(machine.bob, b"note", b"first")
        first, _ = await machine.sent(1)
        node = await machine.save(machine.bob, b"note", b"second")
        await machine.link.answer.send(AwayError())
        second, _ = await machine.sent(2)
        await machine.link.answer.send(OSError(errno.EDQUOT, ""))
        await until(lambda: node.trouble)
        over = await machine.save(machine.carol, b"other", b"third")
        await machine.sent(3)
        await machine.link.answer.send(OSError(errno.EDQUOT, ""))
        await until(lambda: over.trouble)
        assert await machine.handing.moved(over, machine.bob, b"note")
        (waiting,) = (each.item for each in machine.handing._waiting.values())
        assert second.identity + first.identity in waiting.before

    run(tmp_path, body)


def test_what_was_to_replace_a_draft_and_is_refused_leaves_none_where_it_was(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"first")
        await machine.sent(1)
        await machine.link.answer.send(made(b"note"))
        await until(lambda: not machine.waits())
        node = await machine.save(machine.bob, b"note", b"second")
        await machine.sent(2)
        await machine.link.answer.send(OSError(errno.EDQUOT, ""))
        await until(lambda: node.trouble)
        assert await machine.handing.moved(node, machine.carol, b"note")
        assert machine.link.asked == [("unlink", b"outbox/bob/note")]
        assert machine.waits() == [(b"outbox/carol/note", CAROL, b"second")]

    run(tmp_path, body)


def test_an_answer_that_is_none_does_not_say_that_nothing_is_there(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"for bob")
        first, _ = await machine.sent(1)
        await machine.link.answer.send(["nonsense"])
        await until(lambda: node.trouble)
        assert await machine.handing.dropped(node)
        assert machine.link.asked == [("withdraw", first.identity)]

    run(tmp_path, body)


def test_a_file_that_fails_stops_none_behind_it(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        for name in (b"one", b"two"):
            await machine.save(machine.bob, name, name)
        machine.link.is_up = True
        machine.handing.again()
        first, _ = await machine.sent(1)
        await machine.link.answer.send(AwayError(errno.ETIMEDOUT))
        second, _ = await machine.sent(2)
        assert {first.path, second.path} == {b"outbox/bob/one", b"outbox/bob/two"}
        await machine.link.answer.send(made(b"two"))
        await until(lambda: machine.handing.count == 1)

    run(tmp_path, body)


def test_what_was_not_on_the_link_is_not_taken_for_sent_when_that_ends(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        machine.link.is_up = False
        nodes = [await machine.save(machine.bob, name, name) for name in (b"one", b"two")]
        machine.link.is_up = True
        machine.handing.again()
        await machine.sent(1)
        machine.link.is_up = False
        await machine.link.answer.send(AwayError())
        await until(lambda: not machine.handing._claims)
        assert await machine.handing.dropped(nodes[1])
        assert machine.waits() == [(b"outbox/bob/one", BOB, b"one")]

    run(tmp_path, body)


def test_what_was_cut_off_in_the_place_of_what_may_be_there_can_be_removed(
    tmp_path: Path,
) -> None:
    async def body(machine: Machine) -> None:
        node = await machine.save(machine.bob, b"note", b"first")
        await machine.sent(1)
        await machine.handing.save(node, b"half of", whole=False)
        await machine.link.answer.send(AwayError())
        await until(lambda: not machine.handing._claims)
        with trio.fail_after(5):
            assert await machine.handing.dropped(node)
        assert [words[0] for words in machine.link.asked] == ["withdraw"]
        assert not machine.waits()

    run(tmp_path, body)


def test_what_was_withdrawn_and_then_not_changed_goes_under_another_id(tmp_path: Path) -> None:
    async def body(machine: Machine) -> None:
        await machine.save(machine.bob, b"note", b"text")
        first, _ = await machine.sent(1)
        await machine.link.answer.send(OSError(errno.ECANCELED, ""))
        await until(lambda: not machine.handing._claims)
        machine.handing.again()
        second, content = await machine.sent(2)
        assert second.identity != first.identity
        assert content == b"text"
        await machine.link.answer.send(made(b"note"))
        await until(lambda: not machine.waits())

    run(tmp_path, body)
