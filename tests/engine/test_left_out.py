"""Groups in which nothing can be sent to some, and notes to oneself: engines in one process, with a
real server and a real directory."""

import os
from dataclasses import replace

import pytest
import trio

from cbfs.contacts.contact import Contact, Mark
from cbfs.contacts.look_up import Blocked, Frozen, Stopped
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages import history
from cbfs.messages.model import Delivery, Message
from cbfs.problems import Refused
from cbfs.storage.store import Table
from cbfs_common.names.entry import Status
from cbfs_common.session.session import Session
from tests.engine.test_engine import NO_TOR, Recorder, account, read, send, until
from tests.engine.test_healing import texts, write
from tests.support.world import User, World, wait_for


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    monkeypatch.setattr("cbfs.receiving.reassembly.ASK_FIRST", 0)


async def has(engine: Engine, text: str) -> None:
    await until(lambda: text in texts(engine), f"{text!r} at {engine.name}")


def states(engine: Engine, message: Message) -> dict[str, Delivery]:
    found = engine.message(message.conversation, message.serial)
    assert found is not None
    return dict(found.recipients)


def transcript(engine: Engine) -> str:
    (conversation,) = engine.conversations()
    with engine.store.read() as reader:
        messages = history.load_messages(reader, conversation.id)
        entries = [history.transcript_entry(reader, conversation.id, m.serial) for m in messages]
        assert sum(map(len, entries)) == history.transcript_extent(reader, conversation.id).size
        assert [len(entry) for entry in entries] == [m.entry_size for m in messages]
    return b"".join(entries).decode()


def test_who_is_blocked_is_left_out_and_the_others_get_it(here: World) -> None:
    names = "left-a", "left-b", "left-m"
    places = [account(here, name) for name in names]

    async def main() -> None:
        async with (
            running(places[0], NO_TOR) as alice,
            running(places[1], NO_TOR) as bob,
            running(places[2], NO_TOR) as mallory,
        ):
            await send(alice, names[1:], b"hello")
            for engine in (bob, mallory):
                await has(engine, "hello")
            await alice.people.mark("left-m", Mark.BLOCKED, on=True)
            secret = await send(alice, names[1:], b"not for mallory")
            await has(bob, "not for mallory")
            await until(lambda: not alice.report().queue, "nothing to be waiting")
            assert states(alice, secret)["left-m"] is Delivery.LEFT_OUT
            assert "    (not sent to left-m: blocked)\n" in transcript(alice)
            assert transcript(bob).count("blocked") == 0
            # bob's answer names it as a parent: mallory asks for it, and goes on asking
            await write(bob, "left-a", "I think so too")
            await has(mallory, "I think so too")
            await until(lambda: mallory.report().problems, "mallory to ask")
            (line,) = mallory.report().problems
            assert line.startswith("1 message is missing in 2")
            assert "left you out" in line
            await alice.people.mark("left-m", Mark.BLOCKED, on=False)
            after = await send(alice, names[1:], b"for all of you")
            for engine in (bob, mallory):
                await has(engine, "for all of you")
            await write(mallory, "left-a", "good morning")
            await has(alice, "good morning")
            await until(lambda: states(alice, after)["left-m"] is Delivery.RECEIVED, "a receipt")
            assert "not for mallory" not in texts(mallory)
            assert states(alice, secret)["left-m"] is Delivery.LEFT_OUT

    trio.run(main)


def test_what_waits_for_somebody_is_not_sent_once_they_are_blocked(here: World) -> None:
    names = "wait-a", "wait-b", "wait-m"
    places = [account(here, name) for name in names]

    async def main() -> None:
        async with running(places[0], NO_TOR) as alice, running(places[2], NO_TOR) as mallory:
            view = Recorder()
            alice.attach(view)
            await send(alice, names[1:], b"hello")
            await has(mallory, "hello")
            here.server.end()
            waits = await send(alice, names[1:], b"think twice")
            assert states(alice, waits) == {"wait-b": Delivery.QUEUED, "wait-m": Delivery.QUEUED}
            await alice.people.mark("wait-m", Mark.BLOCKED, on=True)
            assert states(alice, waits) == {"wait-b": Delivery.QUEUED, "wait-m": Delivery.LEFT_OUT}
            assert "    (not sent to wait-m: blocked)\n" in transcript(alice)
            assert [m.serial for m in view.changed][-1] == waits.serial
            assert not [line for line in alice.report().queue if "wait-m" in line]
            with pytest.raises(Blocked):
                await send(alice, ("wait-m",), b"to nobody but you")
            here.server.start()
            async with running(places[1], NO_TOR) as bob:
                await has(bob, "think twice")
            await alice.people.mark("wait-m", Mark.BLOCKED, on=False)
            await send(alice, names[1:], b"the end")
            await has(mallory, "the end")
            assert "think twice" not in texts(mallory)

    trio.run(main)


def test_one_member_s_state_stops_nobody_else(here: World) -> None:
    """One after the other: frozen, with other keys, in doubt, not known."""
    names = "stop-a", "stop-b", "stop-m"
    places = [account(here, name) for name in names]

    async def main() -> None:
        async with (
            running(places[0], NO_TOR) as alice,
            running(places[1], NO_TOR) as bob,
            running(places[2], NO_TOR) as mallory,
        ):
            await send(alice, names[1:], b"hello")
            await has(mallory, "hello")
            peers = alice._context.contacts
            whole = peers.named("stop-m")
            frozen, suspended = (
                replace(whole, entry=replace(whole.entry, status=status))
                for status in (Status.FROZEN, Status.SUSPENDED)
            )
            offered = replace(whole, offered=replace(whole.entry, incarnation=2))
            for state, error in ((frozen, Frozen), (suspended, Frozen), (offered, Stopped)):
                await peers.decide([state], lambda writer: None)
                text = f"while {error.__name__}, {state.entry.status.name}"
                await send(alice, names[1:], text.encode())
                await has(bob, text)
                await until(lambda: len(alice.report().queue) == 1, "bob's to be delivered")
                assert alice.report().queue[0].endswith("to stop-m")
                with pytest.raises(error):
                    await send(alice, ("stop-m",), b"alone")
            await peers.decide([replace(whole, doubted=1)], lambda writer: None)
            await send(alice, names[1:], b"in doubt")
            await has(bob, "in doubt")
            here.names.end()
            sessions, gone = alice._context.sessions, ["stop-m"]
            async with sessions.lock:
                await peers.forget(gone, lambda writer: sessions.forget(writer, gone))
                sessions.forgotten(gone)
            try:
                await send(alice, names[1:], b"not known, and no directory")
                await has(bob, "not known, and no directory")
                five = ("5 messages to stop-m",)
                await until(lambda: alice.report().queue == five, "five to wait")
            finally:
                here.names.start()
            await peers.decide([whole], lambda writer: None)
            for text in (
                "while Frozen, FROZEN",
                "while Frozen, SUSPENDED",
                "while Stopped, ACTIVE",
                "in doubt",
                "not known, and no directory",
            ):
                await has(mallory, text)

    trio.run(main)


def test_who_is_forgotten_while_a_prekey_is_taken_is_met_anew(here: World) -> None:
    """No session is kept with somebody who is not known: what they answer could not be read."""
    names = "gone-a", "gone-m"
    places = [account(here, name) for name in names]

    async def main() -> None:
        async with running(places[0], NO_TOR) as alice, running(places[1], NO_TOR) as mallory:
            peers, sessions = alice._context.contacts, alice._context.sessions
            starting, forgotten = alice._sender._new_session, trio.Event()

            async def start_and_forget(contact: Contact) -> Session:
                started = await starting(contact)
                if not forgotten.is_set():
                    async with sessions.lock:
                        gone = [contact.name]
                        await peers.forget(gone, lambda writer: sessions.forget(writer, gone))
                        sessions.forgotten(gone)
                    forgotten.set()
                return started

            alice._sender._new_session = start_and_forget  # type: ignore[method-assign]
            await send(alice, names[1:], b"do you hear me?")
            await has(mallory, "do you hear me?")
            assert forgotten.is_set()
            await write(mallory, "gone-a", "I do")
            await has(alice, "I do")

    trio.run(main)


def test_a_note_to_oneself_is_kept_and_sent_nowhere(here: World) -> None:
    place = account(here, "self-a")

    async def main() -> None:
        async with running(place, NO_TOR) as alice:
            view = Recorder()
            alice.attach(view)
            here.server.end()
            here.names.end()
            with pytest.raises(Refused, match="nobody"):
                await send(alice, (), b"x")
            for names in (("self-a",), ("SELF-A",), ("self-a", "self-a")):
                note = await send(alice, names, b"buy milk")
                assert note.recipients == (("self-a", Delivery.KEPT),)
            assert {c.participants for c in alice.conversations()} == {("self-a",)}
            assert alice.conversations()[0].folder.endswith("-self-a")
            assert not alice.report().queue
            with alice.store.read() as reader:
                for table in (Table.QUEUE, Table.NOTE_ITEMS, Table.PEERS):
                    assert not reader.count(table)
            notes = [m for c in alice.conversations() for m in alice.messages(c.id)]
            assert [read(alice, note) for note in notes] == [b"buy milk"] * 3
            await alice.delete(note)
            here.server.start()
            here.names.start()

    trio.run(main)


def state_of(user: User, text: str) -> str:
    """Of one's own message, as its attribute has it."""
    path = user.wait_message(user.name, text)
    return os.getxattr(path, "user.cbfs.state").decode()


@pytest.mark.mount
def test_in_a_mount_all_that_is_true_is_said(here: World) -> None:
    erin, frank, gina = (here.user(name) for name in ("erin", "frank", "gina"))
    erin.run("mkdir outbox/frank,gina; echo hello > outbox/frank,gina/note")
    for user in (frank, gina):
        folder = user.wait_message("erin", "hello\n").parent.name
    erin.run("touch contacts/gina/blocked")
    erin.write(folder, "note", "not for gina\n")
    frank.wait_message("erin", "not for gina\n")
    wait_for(lambda: "gina: left out" in state_of(erin, "not for gina\n"), "the state")
    said = f"tail -n 2 conversations/{folder}/transcript"
    assert erin.run(said).endswith(" erin: not for gina\n    (not sent to gina: blocked)\n")
    wait_for(lambda: "is delivered" in erin.run("cat status"), "the queue to be empty")
    erin.run("rm contacts/gina/blocked")
    erin.write(folder, "note", "for all\n")
    gina.wait_message("erin", "for all\n")
    assert not [path for path in gina.messages("erin") if path.read_text() == "not for gina\n"]

    for order in (
        "mkdir outbox/ERIN; echo milk > outbox/ERIN/note",
        "mkdir 'outbox/erin,erin shopping'; echo bread > 'outbox/erin,erin shopping/note'",
        """mkdir tmp/me; echo 'participants = ["erin"]' > tmp/me/metadata.toml
           echo 'lifetime = "7d"' >> tmp/me/metadata.toml
           mkdir tmp/list; echo eggs > tmp/list/eggs; mv tmp/list tmp/me/; mv tmp/me outbox/""",
    ):
        erin.run(order)
    for text in ("milk\n", "bread\n"):
        assert state_of(erin, text) == "erin: kept here"
    eggs = wait_for(lambda: list(erin.mountpoint.glob("conversations/*/*-list/eggs")), "the folder")
    assert eggs[0].read_text() == "eggs\n"
    folders = {path.name[11:] for path in (erin.mountpoint / "conversations").iterdir()}
    assert {"erin", "erin shopping"} <= folders
    assert len([name for name in folders if name.startswith("erin")]) == 3 + 1  # with frank, gina
    assert not list((erin.mountpoint / "unread").iterdir())
    assert erin.run("ls 'search/bread from:erin'").strip()
    assert "is delivered" in erin.run("cat status")
    assert "1 message in " in erin.run("cat status")
    assert not list((erin.mountpoint / "outbox").rglob("*.error"))
    assert "mkdir outbox/YOURNAME" in erin.run("cat README")
