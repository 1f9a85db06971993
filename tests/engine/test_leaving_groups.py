"""Groups that people leave: what each member sees, and what is sent to whom from then on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.messages import history
from cbfs.messages.model import Delivery
from cbfs.problems import Refused
from tests.support.changing_world import (
    NAMES,
    ROOT,
    THREE,
    Town,
    people_of,
    town,
)
from tests.support.parts import talk_id


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


def test_who_leaves_gets_nothing_more_and_the_others_see_it(group: Town) -> None:
    alice, bob, carol = (group.of(name) for name in THREE)
    bob.leave()
    assert not bob.all
    group.exchange()
    for member in (alice, carol):
        (one,) = member.all
        assert one.left == ("bob",)
        assert people_of(member) == [("alice", "carol")]
        assert member.transcript(one) == [
            "alice: hello",
            "bob: I have left this conversation.",
            "(nothing more is sent to bob)",
        ]
    message = alice.say("he is gone")
    assert dict(message.recipients) == {"carol": Delivery.QUEUED}
    group.exchange()
    assert not bob.all
    assert carol.texts(carol.all[0])[-1] == "alice: he is gone"


def test_what_crosses_with_the_leaving_is_dropped_and_not_offered_for_ever(group: Town) -> None:
    alice, bob = group.of("alice"), group.of("bob")
    bob.leave()
    crossing = alice.say("are you there?")
    group.exchange()
    assert not bob.all
    assert bob.texts(bob.context.conversations[ROOT]) == [
        "alice: hello",
        "bob: I have left this conversation.\n",
    ]
    with alice.store.read() as reader:
        sent = history.get_message(reader, ROOT, crossing.serial)
    assert sent is not None
    assert dict(sent.recipients)["bob"] is Delivery.RECEIVED  # so that it is not offered
    bob.load()
    assert not bob.all


def test_of_two_nobody_is_told(world: Town) -> None:
    """To leave a conversation with one other is to show it no more."""
    alice, bob = world.of("alice"), world.of("bob")
    alice.begin(("bob",), "hello")
    world.exchange()
    bob.leave()
    world.exchange()
    assert alice.all[0].left == ()
    alice.say("again")
    world.exchange()
    assert bob.texts(bob.all[0]) == ["alice: hello", "alice: again"]


def test_everybody_may_leave(group: Town) -> None:
    alice = group.of("alice")
    for name in ("bob", "carol"):
        group.of(name).leave()
        group.exchange()
    with pytest.raises(Refused, match="everybody else has left"):
        alice.say("hello?")
    one = alice.all[0]
    alice.leave()  # nobody is left to be told
    assert not alice.all
    bob = group.of("bob")
    with pytest.raises(Refused, match="you have left"):
        bob.add("dave", where=bob.context.conversations[one.id])


def test_who_has_left_and_writes_to_them_begins_another_conversation(group: Town) -> None:
    bob = group.of("bob")
    bob.leave()
    group.exchange()
    bob.begin(("alice", "carol"), "I am back")
    group.exchange()
    for name in THREE:
        new = group.of(name).all[-1]
        assert new.id == talk_id(THREE, number=1)
        assert group.of(name).texts(new) == ["bob: I am back"]
    assert len(group.of("alice").all) == 2


def test_who_left_is_not_among_those_who_go_on(group: Town) -> None:
    alice, bob, carol, dave = (group.of(name) for name in NAMES[:4])
    bob.leave()
    group.exchange()
    alice.add("dave")
    alice.say("welcome")
    group.exchange()
    for member in (alice, carol, dave):
        assert people_of(member) == [("alice", "carol", "dave")]
    dave.say("thanks")
    group.exchange()
    assert not bob.all
    assert not bob.mail


def test_who_leaves_while_somebody_is_added(group: Town) -> None:
    """dave is never told that bob has left, as bob did not know of him: he goes on sending to bob,
    who drops it; the others do not."""
    alice, bob, carol, dave = (group.of(name) for name in NAMES[:4])
    alice.add("dave")
    alice.say("welcome")
    bob.leave()
    group.exchange()
    for member in (alice, carol):
        assert people_of(member) == [("alice", "carol", "dave")]
        assert len(member.open) == 1
    assert people_of(dave) == [NAMES[:4]]
    assert not bob.all
    dave.say("hello all")
    sent = carol.say("hello dave")
    assert {who for who, _state in sent.recipients} == {"alice", "dave"}
    group.exchange()
    assert not bob.all
    for member in (alice, carol, dave):
        assert sorted(member.texts(member.open[0])) == [
            "alice: welcome",
            "carol: hello dave",
            "dave: hello all",
        ]


def test_somebody_who_does_not_know_yet_that_one_has_left_goes_on_with_them(group: Town) -> None:
    alice, bob, carol = (group.of(name) for name in THREE)
    bob.leave()
    group.send("bob")
    group.receive("alice")
    carol.add("dave")  # with bob
    carol.say("welcome")
    group.send("carol")
    group.receive("alice", "bob", "dave")
    assert people_of(alice) == [("alice", "carol", "dave")]
    assert not bob.all
    group.exchange()
    assert people_of(carol) == [("alice", "carol", "dave")]
    assert alice.open[0].id == carol.open[0].id
    assert not bob.all


def test_one_without_who_has_left_is_followed_when_that_is_known(group: Town) -> None:
    alice, bob, carol = (group.of(name) for name in THREE)
    bob.leave()
    group.send("bob")
    late = carol.inbox()
    group.receive("alice")
    alice.add("dave")  # without bob
    alice.say("welcome")
    group.send("alice")
    group.receive("carol")
    assert people_of(carol) == [THREE, ("alice", "carol", "dave")]  # alice alone says so
    carol.receive(late)
    assert people_of(carol) == [("alice", "carol", "dave")]
