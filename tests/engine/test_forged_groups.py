"""Groups in which somebody forges who takes part, or tells each something else; and that the order
in which messages come does not count."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.contacts.contact import Standing
from cbfs.problems import Refused
from cbfs.storage.records import Reader
from cbfs.storage.store import Table
from cbfs_common.limits import COMPOSITIONS_MAX
from cbfs_common.messages.conversation import continued_id, fits
from tests.support.changing_world import (
    NAMES,
    ROOT,
    THREE,
    Town,
    end_of,
    going_on,
    people_of,
    town,
)
from tests.support.parts import HERE, sole_part, talk_id


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Town]:
    with town(tmp_path, *NAMES) as made:
        yield made


@pytest.fixture
def group(world: Town) -> Town:
    """alice has begun a conversation with bob and carol, who have read it."""
    world.of("alice").begin(("bob", "carol"), "hello")
    world.exchange()
    return world


def test_only_oneself_can_leave(group: Town) -> None:
    """Whatever somebody writes, it is theirs: it says of nobody else that they have left."""
    alice, bob, carol = (group.of(name) for name in THREE)
    carol.forge(alice, sole_part(b"bob has left", THREE))
    forged = replace(sole_part(b"x", THREE), leaving=True)
    carol.forge(alice, forged)
    group.receive("alice")
    assert alice.all[0].left == ("carol",)
    assert people_of(alice) == [("alice", "bob")]
    assert people_of(bob) == [THREE]
    alice.say("to bob")  # and what only some were told is missing at the others
    group.exchange(8)
    assert "(alice answers a message of carol's that has not come)" in bob.transcript(bob.all[0])


def test_nobody_adds_themselves(group: Town) -> None:
    """dave knows under which id alice, bob and carol talk: it follows from their names. What he
    writes is a conversation of his own."""
    alice, dave = group.of("alice"), group.of("dave")
    dave.forge(alice, going_on(NAMES[:4], "let me in"))
    dave.forge(alice, replace(going_on(NAMES[:4], "let me in"), salt=b"2" * 16))
    group.receive("alice")
    old, apart = alice.all
    assert (old.next, apart.next) == (b"", b"")
    assert people_of(alice) == [THREE, NAMES[:4]]
    message = alice.say("us three", old)
    assert dict(message.recipients).keys() == {"bob", "carol"}


def test_a_stranger_s_way_in_is_a_request(group: Town) -> None:
    """Also when a member who is no contact has added them; a member's own message is not."""
    alice, bob, dave = group.of("alice"), group.of("bob"), group.of("dave")
    strange = {
        name: replace(alice.context.contacts.named(name), standing=standing)
        for name, standing in (("bob", Standing.LISTED), ("dave", Standing.STRANGER))
    }
    for contact in strange.values():
        alice.context.contacts._remember(contact)
    dave.forge(alice, going_on(NAMES[:4], "let me in"))
    group.receive("alice")
    assert len(alice.all) == 1
    bob.add("dave")
    bob.say("dave is here")
    group.exchange()
    assert people_of(alice) == [NAMES[:4]]
    assert sorted(alice.texts(alice.open[0])) == ["bob: dave is here", "dave: let me in"]


def test_nobody_is_taken_out(group: Town) -> None:
    """carol goes on without bob: that is something else."""
    alice, carol = group.of("alice"), group.of("carol")
    for people in (("alice", "carol"), ("alice", "carol", "dave")):
        carol.forge(alice, going_on(people, "without bob"))
        group.receive("alice")
        assert people_of(alice)[0] == THREE
    assert len(alice.open) == 3


def test_a_word_between_two_is_not_taken_for_the_group_s(group: Town) -> None:
    """Nor does one of them bring the other's answer to all by adding people to the group."""
    alice, carol = group.of("alice"), group.of("carol")
    carol.forge(alice, going_on(("alice", "carol"), "between us"))
    group.receive("alice")
    carol.add("dave", where=carol.context.conversations[ROOT])
    carol.say("welcome", carol.with_(*NAMES[:4]))
    group.exchange()
    assert people_of(alice) == [("alice", "carol"), NAMES[:4]]


def test_who_tells_each_something_else_brings_all_together(group: Town) -> None:
    """carol adds dave for alice's eyes, and erin for bob's. Each writes to whom the name of the
    folder says; as soon as they hear of each other, all are in it."""
    alice, bob, carol = (group.of(name) for name in THREE)
    carol.forge(alice, going_on(NAMES[:4], "with dave"))
    carol.forge(bob, going_on((*THREE, "erin"), "with erin"))
    group.receive("alice", "bob")
    assert people_of(alice) == [NAMES[:4]]
    assert people_of(bob) == [(*THREE, "erin")]
    said = alice.say("hello dave")
    assert dict(said.recipients).keys() == {"bob", "carol", "dave"}
    group.exchange()
    assert people_of(bob) == [NAMES[:5]]
    bob.say("hello all")
    group.exchange()
    assert people_of(alice) == people_of(bob) == [NAMES[:5]]
    missing = "(alice answers a message of carol's that has not come)"
    assert missing in bob.transcript(bob.with_(*NAMES[:4]))


def test_an_id_that_is_none_of_these_people_is_refused(group: Town) -> None:
    alice, carol = group.of("alice"), group.of("carol")
    good = going_on(NAMES[:4], "x")
    wrong = [
        replace(good, root=b""),
        replace(good, root=bytes(16)),
        replace(good, conversation=ROOT),
        replace(good, subject="x"),
        replace(good, conversation=talk_id(NAMES[:4])),
        replace(sole_part(b"x", THREE), root=ROOT),
        replace(sole_part(b"x", THREE), root=bytes(16)),
    ]
    for part in wrong:
        assert not fits(part.conversation, part.participants, part.subject, part.root) or (
            part.conversation == ROOT
        )
        carol.forge(alice, part)
    group.receive("alice")
    assert [one.id for one in alice.all] == [ROOT]
    assert alice.texts(alice.all[0]) == ["alice: hello"]


def test_another_subject_is_another_matter(group: Town) -> None:
    alice, carol = group.of("alice"), group.of("carol")
    persons = HERE.people(NAMES[:4])
    part = going_on(
        NAMES[:4], "x", subject="lunch", conversation=continued_id(ROOT, persons, "lunch")
    )
    carol.forge(alice, part)
    group.receive("alice")
    assert people_of(alice) == [THREE, NAMES[:4]]


def test_who_has_left_adds_nobody(group: Town) -> None:
    alice, bob, carol = (group.of(name) for name in THREE)
    bob.leave()
    group.exchange()
    bob.forge(alice, going_on(NAMES[:4], "dave is with me"))
    group.receive("alice")
    assert people_of(alice) == [("alice", "carol"), NAMES[:4]]
    assert people_of(carol) == [("alice", "carol")]


def test_what_who_has_left_writes_is_shown_and_nothing_is_sent_to_them(group: Town) -> None:
    """It may have been on its way, or they have an old copy of their account."""
    alice, bob = group.of("alice"), group.of("bob")
    bob.leave()
    group.exchange()
    bob.forge(alice, sole_part(b"one more thing", THREE))
    group.receive("alice")
    assert alice.texts(alice.all[0])[-1] == "bob: one more thing"
    assert dict(alice.say("hm").recipients).keys() == {"carol"}


def test_too_many_people_are_not_followed(world: Town) -> None:
    """Nobody makes a conversation useless by filling it: there is room for all who are followed."""
    alice, carol = world.of("alice"), world.of("carol")
    alice.begin(("bob", "carol"), "hello")
    world.exchange()
    for block in range(3):
        crowd = tuple(sorted((*THREE, *(f"u{block}{n:02}" for n in range(40)))))
        carol.forge(alice, going_on(crowd, f"crowd {block}"))
        world.receive("alice")
    assert [len(people) for people in people_of(alice)] == [43, 43, 43]
    assert alice.context.conversations[ROOT].next


def test_so_many_are_compared_and_no_more(world: Town) -> None:
    alice, carol = world.of("alice"), world.of("carol")
    alice.begin(("bob", "carol"), "hello")
    world.exchange()
    for number in range(COMPOSITIONS_MAX + 4):
        people = tuple(sorted(("alice", "carol", f"u{number:03}")))
        carol.forge(alice, going_on(people, f"{number}"))
        world.receive("alice")
    assert len(alice.all) == COMPOSITIONS_MAX + 5
    carol.forge(alice, going_on(NAMES[:4], "the group"))
    world.receive("alice")
    assert people_of(alice)[0] == THREE  # it stands by itself
    with pytest.raises(Refused, match="too often"):
        alice.add("dave", where=alice.context.conversations[ROOT])
    alice.leave(alice.with_(*NAMES[:4]))
    alice.leave(alice.context.conversations[ROOT])


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_the_order_of_arrival_does_not_count(group: Town, order: tuple[int, ...]) -> None:
    """bob adds erin, and she frank; carol adds dave, who leaves."""
    alice = group.of("alice")
    parts = [
        ("bob", going_on((*THREE, "erin"), "1")),
        ("erin", going_on((*THREE, "erin", "frank"), "2")),
        ("carol", going_on(NAMES[:4], "3")),
        ("dave", going_on(NAMES[:4], "4", leaving=True)),
    ]
    for at in order:
        who, part = parts[at]
        group.of(who).forge(alice, part)
        group.receive("alice")
    assert people_of(alice) == [("alice", "bob", "carol", "erin", "frank")]
    (newest,) = alice.open
    assert {end_of(alice, one) for one in alice.all} == {newest.id}
    group.exchange()


PAIR = talk_id(("alice", "bob"))


def test_who_is_answered_has_not_joined_a_conversation_of_others(world: Town) -> None:
    """dave makes a group with alice and bob, and says that it goes on from what these two have
    between them. alice would add him to that by an answer there: she is told, and it is not
    sent."""
    alice, bob, dave = world.of("alice"), world.of("bob"), world.of("dave")
    alice.begin(("bob",), "between us")
    world.exchange()
    for victim in (alice, bob):
        dave.forge(victim, going_on(("alice", "bob", "dave"), "hi both", PAIR))
    world.receive("alice", "bob")
    for member, other in ((alice, bob), (bob, alice)):
        apart = member.with_(other.name, "dave")
        with pytest.raises(Refused, match="would add dave to 2027-01-15-alice-bob, and"):
            member.say("hello dave", apart)
        assert people_of(member) == [("alice", "bob"), ("alice", "bob", "dave")]
    # who wants to, adds him; then it is said, and others can answer
    alice.add("dave", where=alice.with_("bob"))
    alice.say("he is right")
    world.exchange()
    assert people_of(bob) == [("alice", "bob", "dave")]
    bob.say("hello dave")


def test_a_root_that_is_named_before_it_is_there_is_none(world: Town) -> None:
    """dave knows under which id alice and bob will begin to talk."""
    alice, bob, dave = world.of("alice"), world.of("bob"), world.of("dave")
    dave.forge(alice, going_on(("alice", "bob", "dave"), "hi both", PAIR))
    dave.forge(bob, going_on(("alice", "bob", "dave"), "hi both", PAIR))
    world.receive("alice", "bob")
    alice.say("hello dave")
    world.exchange()
    bob.begin(("alice",), "between us")
    world.exchange()
    dave.forge(bob, replace(going_on(("alice", "bob", "dave"), "2", PAIR), salt=b"2" * 16))
    dave.forge(alice, replace(going_on(("alice", "bob", "dave"), "2", PAIR), salt=b"2" * 16))
    world.receive("alice", "bob")
    for member in (alice, bob):
        assert sorted(people_of(member)) == [("alice", "bob"), ("alice", "bob", "dave")]


def test_what_one_has_written_before_a_root_came_says_nothing_of_it(world: Town) -> None:
    """bob has begun it before he heard of dave, and alice answers dave before she hears of it."""
    alice, bob, dave = world.of("alice"), world.of("bob"), world.of("dave")
    dave.forge(alice, going_on(("alice", "bob", "dave"), "hi both", PAIR))
    world.receive("alice")
    alice.say("hello dave")
    bob.begin(("alice",), "between us")
    world.send("bob")
    world.receive("alice")
    dave.forge(alice, replace(going_on(("alice", "bob", "dave"), "2", PAIR), salt=b"2" * 16))
    world.receive("alice")
    assert sorted(people_of(alice)) == [("alice", "bob"), ("alice", "bob", "dave")]


def test_what_one_message_costs_does_not_follow_from_how_many_there_are(
    world: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody goes on with ever other people, who are too many to go on with together, and so are
    looked at anew with each message."""
    alice, bob = world.of("alice"), world.of("bob")
    begun = alice.begin(("bob",), "hello")
    world.exchange()
    opened = 0

    def get(reader: Reader, table: Table, key: bytes, real: Any = Reader.get) -> bytes | None:
        nonlocal opened
        opened += 1
        return cast("bytes | None", real(reader, table, key))

    def cost() -> int:
        nonlocal opened
        alice.forge(bob, going_on(crowds[0], SYSTEM_RANDOM.token(8).hex(), begun.conversation))
        mail, opened = bob.inbox(), 0
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "get", get)
            bob.receive(mail)
        return opened

    crowds = [
        tuple(sorted(("alice", "bob", *(f"p{crowd}x{at:02d}" for at in range(26)))))
        for crowd in range(5)
    ]
    costs = []
    for _ in range(2):
        for crowd in crowds:
            for _ in range(4):
                text = SYSTEM_RANDOM.token(8).hex()
                alice.forge(bob, going_on(crowd, text, begun.conversation))
        bob.receive(bob.inbox())
        bob.load()
        cost()
        costs.append(cost())
    assert len(bob.context.conversations) > len(crowds)
    assert costs[1] <= costs[0] + 2
