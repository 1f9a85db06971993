"""No person stops a mailbox, whatever they send."""

from dataclasses import replace

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.contacts.contact import Standing
from cbfs.engine.engine import Engine
from cbfs_common.messages.body import Parent, encode_part
from cbfs_common.names.wire import Lookup, Reply, Request
from tests.hostile.senders import Senders
from tests.hostile.town import Person, Town
from tests.support import parts

BOUNDED = settings(
    max_examples=8,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    # no shrinking: it takes minutes, and pytest would cut it off before anything was told
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


def test_no_person_stops_a_mailbox() -> None:
    run_state_machine_as_test(Senders, settings=BOUNDED)


def test_nobody_is_accepted_because_something_is_missing_in_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """mallory, a contact, names strangers and a parent that there is not. Those are asked for it
    when they have been met, at the pace of that, and their own messages wait in requests/."""
    town = Town()
    asked: list[str] = []
    answer = town.names.answer

    def noting(request: Request) -> Reply | bytes | None:
        if isinstance(request, Lookup):
            asked.append(request.name)
        return answer(request)

    async def go(engine: Engine) -> None:
        await town.know(engine, "mallory")
        town.names.answer = noting
        people = tuple(sorted(("alice", "mallory", *(who.name for who in others))))
        part = replace(
            mallory.part(b"hi", people),
            parents=(Parent(parts.who("mallory"), SYSTEM_RANDOM.token(32)),),
        )
        town.send(mallory.seal(encode_part(part)))
        await town.until(lambda: b"hi" in town.texts("mallory"), "mallory's message")
        await trio.sleep(30)  # mallory is asked for it meanwhile
        assert len(asked) < len(others) / 2
        monkeypatch.setattr("cbfs.engine.meeting.MEET_DELAY", 5.0)
        await town.until(lambda: len(asked) == len(others), "all to be met")
        await town.until(lambda: all(_box(who) for who in others), "all to be asked")
        standings = {contact.name: contact.standing for contact in engine.people.contacts()}
        assert {standings[who.name] for who in others} == {Standing.LISTED}
        town.send(others[0].seal(encode_part(others[0].part(b"to alice alone"))))
        await town.until(lambda: bool(engine.people.waiting()), "a request")
        assert not town.texts(others[0].name)

    def _box(who: Person) -> bool:
        return bool(town.other.box(who.account.profile.user_id))

    monkeypatch.setattr("cbfs.engine.meeting.MEET_DELAY", 60.0)
    try:
        town.begin()
        mallory = town.person("mallory")
        others = [town.person(f"sock-{n}") for n in range(12)]
        for who in others:
            town.give_prekey(who)
        town.run(go)
    finally:
        town.close()
