"""A fault of the program, in any of the places that others feed, ends nothing but what it met."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine.engine import Engine
from cbfs.storage.store import Table
from cbfs_common.errors import DecodeError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.messages.body import encode_part
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.session.session import Session
from cbfs_common.session.states import Stage
from tests.engine.test_engine import send
from tests.hostile.breaking import FAULTS, SECRET, breaking
from tests.hostile.town import Town


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    made.begin()
    made.give_prekey(made.bob)
    made.send(SYSTEM_RANDOM.token(ENVELOPE_SIZE))  # is kept, and tried again at each start

    async def keep(_engine: Engine) -> None:
        await made.until(lambda: not made.mailbox, "the noise to be kept")

    made.run(keep)
    yield made
    made.close()


PLACES = (
    "cbfs.receiving.message_requests.introduced",
    "cbfs.names.lookups.Lookups.poll",
    "cbfs.sending.cover_traffic.CoverTraffic.is_dummy",
    "cbfs.receiving.mailbox.decode_push",
    "cbfs.receiving.mailbox.top_up",
    "cbfs.network.link.Link._take",
    "cbfs.messages.lifetimes.is_known",
    "cbfs.messages.lifetimes.slots",
    "cbfs.messages.queues.note_queue.draft",
    "cbfs.names.own_name.OwnName.check",
    "cbfs.messages.petnames.pending",
    "cbfs.contacts.look_up.ContactLookUp.ready",
    "cbfs.receiving.receiver.Receiver._kept",
    "cbfs.receiving.receiver.Receiver._meet",
    "cbfs.receiving.receiver.Receiver.take",
    "cbfs.sending.sender.Sender._deliver_some",
    "cbfs.sending.sender.Sender.note_due",
    "cbfs.contacts.sessions.Sessions.tidy",
    "cbfs.account.settings.words",
    "cbfs.contacts.monitor.Monitor._settle_doubts",
    "cbfs.contacts.monitor.Monitor._take_bundle",
    "tests.engine.test_engine.Recorder.conversation_added",
    "tests.engine.test_engine.Recorder.message_added",
    "tests.engine.test_engine.Recorder.message_changed",
)


@pytest.mark.parametrize("place", PLACES)
def test_the_client_survives_a_fault(
    place: str, town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    """The first three calls fail, by an error that nobody expects. Messages come and go out."""
    stranger = town.person("stranger")
    bob = town.bob.account.profile.user_id

    async def talk(engine: Engine) -> None:
        text = town.send_good()
        ends = replace(town.bob.part(b"ends"), lifetime=Lifetime(86_400, 1))
        town.written.append(b"ends")
        town.send(town.bob.seal(encode_part(ends)))
        town.send(stranger.seal(encode_part(stranger.part(b"hello"))))
        await send(engine, ("bob",), b"of alice")
        await town.until(lambda: text in town.texts("bob"), "a good message")
        await town.until(lambda: not town.mailbox, "the mailbox to be empty")
        await town.until(lambda: len(town.other.box(bob)) >= 1, "alice's message to go out")
        await trio.sleep(3_600)
        settings = engine.configuration.current
        await engine.configuration.change(replace(settings, pace=60.0))
        text = town.send_good()
        await town.until(lambda: text in town.texts("bob"), "a good message at a pace")
        await engine.configuration.change(settings)

    with breaking(place) as left:
        town.run(talk)
    assert left() < FAULTS, "the fault was not met"
    assert SECRET not in caplog.text
    town.faults.texts.clear()
    town.reopen()
    town.office.pushed.clear()
    town.check()


def test_a_fault_in_reading_an_envelope_leaves_its_key(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in quarantine, and can be read at the next start: its session has not moved on."""
    left = 1
    real = vars(Session)["stage"].fget

    def stage(session: Session) -> Stage:
        nonlocal left
        if left:
            left -= 1
            raise KeyError(SECRET)
        found: Stage = real(session)
        return found

    async def take(_engine: Engine) -> None:
        town.send_good()
        await town.until(lambda: not town.mailbox, "the mailbox to be empty")

    async def look(_engine: Engine) -> None:
        await town.until(lambda: town.texts("bob") == town.written, "what was kept")

    monkeypatch.setattr(Session, "stage", property(stage))
    town.run(take)
    assert not left
    town.faults.texts.clear()
    town.reopen()
    town.run(look)
    town.office.pushed.clear()
    town.check()


def test_a_stranger_whose_envelope_met_a_fault_is_met_at_the_next_start(town: Town) -> None:
    """When it is taken out of quarantine, nobody may be looking at those who wait."""
    stranger = town.person("stranger")
    town.send(stranger.seal(encode_part(stranger.part(b"hello"))))

    async def take(_engine: Engine) -> None:
        await town.until(lambda: not town.mailbox, "the mailbox to be empty")

    async def look(engine: Engine) -> None:
        await town.until(lambda: bool(engine.people.waiting()), "a request")

    with breaking("cbfs.receiving.incoming.is_of", faults=1) as left:
        town.run(take)
    assert not left(), "the fault was not met"
    town.faults.texts.clear()
    town.reopen()
    town.run(look)


@pytest.mark.parametrize("faults", [1, 1_000])
def test_a_fault_in_meeting_a_stranger_makes_their_envelope_wait_in_quarantine(
    town: Town, faults: int
) -> None:
    """That is told, who comes behind is met if there is no fault any more, and at the next start
    it is tried again, however often that fails."""
    for name in ("first", "second"):
        stranger = town.person(name)
        town.send(stranger.seal(encode_part(stranger.part(b"hello"))))
    seen = ["second"] if faults == 1 else []

    async def take(engine: Engine) -> None:
        await town.until(lambda: not town.mailbox, "the mailbox to be empty")
        await town.until(lambda: _is_told(engine), "the fault to be told")
        await town.until(lambda: list(engine.people.waiting()) == seen, "who met no fault")
        with town.store.read() as reader:
            assert not reader.count(Table.INBOX)

    async def look(engine: Engine) -> None:
        await town.until(lambda: len(engine.people.waiting()) == 2, "both requests")

    with breaking("cbfs.receiving.receiver.Receiver._meet", faults=faults):
        town.run(take)
        if faults > 1:
            town.reopen()
            town.run(take)
    town.faults.texts.clear()
    town.reopen()
    town.run(look)
    town.office.pushed.clear()
    town.check()


def test_a_fault_in_reminding_of_a_note_puts_it_off(town: Town) -> None:
    """It is told in the same run, though nothing else is to be told to this peer."""
    bob = town.bob.account.profile.user_id

    async def answer(_engine: Engine) -> None:
        town.send_good()
        await town.until(lambda: not left(), "the fault")
        assert not town.other.box(bob)
        await trio.sleep(3_600)
        await town.until(lambda: bool(town.other.box(bob)), "the receipt")

    with breaking("cbfs.sending.sender.Sender.note_due", faults=1) as left:
        town.run(answer)


def test_what_was_stored_is_shown_when_a_fault_keeps_its_step_from_memory(town: Town) -> None:
    """And what follows in the session is read by the state of before."""

    async def take(_engine: Engine) -> None:
        await trio.sleep(60)  # the noise has been tried again
        with breaking("cbfs.contacts.sessions.Batch.done", faults=1) as left:
            town.send_good()
            await town.until(lambda: not left(), "the fault")
            await town.until(lambda: not town.mailbox, "the mailbox to be empty")
        assert len(town.recorder.arrived) == len(town.written)
        town.send_good()
        await town.until(lambda: len(town.recorder.arrived) == len(town.written), "the next")

    town.run(take)
    town.faults.texts.clear()
    town.reopen()
    town.check()


def _is_told(engine: Engine) -> bool:
    return any("kept in quarantine" in line for line in engine.report().problems)


AFTER_A_COMMIT = (
    "cbfs.context.Problems.clear",
    "cbfs.engine.expiry.Expiry.note",
    "cbfs.engine.engine.Engine.conversation_started",
    "cbfs.engine.guarded_view.GuardedView.status_changed",
    "cbfs.sending.sender.Sender.queued",
)


@pytest.mark.parametrize("place", AFTER_A_COMMIT)
def test_what_fails_after_a_message_is_stored_makes_it_no_draft_again(
    place: str, town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    """The mount would send it once more, under another id."""

    async def talk(engine: Engine) -> None:
        with breaking(place) as left:
            message = await send(engine, ("bob",), b"of alice")
            assert left() < FAULTS, "the fault was not met"
        assert [each.id for each in town.messages()] == [message.id]

    town.run(talk)
    assert SECRET not in caplog.text
    town.faults.texts.clear()
    town.reopen()
    town.check()


def test_who_has_registered_no_profile_is_nobody_to_write_to(town: Town) -> None:
    """A directory keeps what owners give it. It leaves nothing here that the next start cannot
    read."""
    town.person("eve")
    entry = town.liar.entries["eve"]
    town.liar.put(replace(entry, profile=b"no profile", round=len(town.liar.rounds)))

    async def look_up(engine: Engine) -> None:
        with pytest.raises(DecodeError):
            await send(engine, ("eve",), b"hello")

    town.run(look_up)
    town.reopen()
    with town.store.read() as reader:
        assert reader.count(Table.PEERS) == 1
    town.check()
