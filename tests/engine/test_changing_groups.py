"""Groups that go on with more people: what each member sees, whatever comes late, crosses or is
lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.messages import history, lifetimes, petnames
from cbfs.problems import Refused
from cbfs_common.limits import PARTICIPANTS_MAX
from tests.support.changing_world import (
    NAMES,
    ROOT,
    THREE,
    Town,
    end_of,
    people_of,
    town,
)


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


def test_who_is_added_sees_what_is_written_from_then_on(group: Town) -> None:
    alice, bob, carol, dave = (group.of(name) for name in NAMES[:4])
    began = alice.all[0]
    new = alice.add("dave")
    assert alice.texts(new) == []
    alice.say("welcome")
    group.exchange()
    for member in (alice, bob, carol):
        assert people_of(member) == [NAMES[:4]]
        old, now = member.all
        assert (old.id, old.next, old.participants) == (ROOT, now.id, THREE)
        assert (now.root, now.began, now.left) == (ROOT, ROOT, ())
        assert member.texts(old) == ["alice: hello"]
        assert member.texts(now) == ["alice: welcome"]
        assert now.started == old.started
    assert new.folder == began.folder.replace("-carol", "-carol-dave")
    (only,) = dave.all
    assert dave.texts(only) == ["alice: welcome"]
    assert (only.id, only.root) == (new.id, ROOT)
    dave.say("thanks")
    group.exchange()
    for member in (alice, bob, carol, dave):
        assert member.texts(member.with_("alice", "bob", "carol", "dave")) == [
            "alice: welcome",
            "dave: thanks",
        ]


def test_nobody_is_told_before_something_is_written(group: Town) -> None:
    alice, bob, dave = group.of("alice"), group.of("bob"), group.of("dave")
    alice.add("dave")
    group.exchange()
    assert people_of(bob) == [THREE]
    assert not dave.all
    bob.say("just us")
    group.exchange()
    assert alice.texts(alice.all[0]) == ["alice: hello", "bob: just us"]
    assert people_of(alice) == [NAMES[:4]]


def test_it_stays_so_over_a_restart(group: Town) -> None:
    alice = group.of("alice")
    alice.add("dave")
    alice.say("welcome")
    group.exchange()
    for name in NAMES[:4]:
        member = group.of(name)
        before = member.all
        member.load()
        assert member.all == before


def test_people_are_added_one_after_the_other(group: Town) -> None:
    for who, whom in (("alice", "dave"), ("dave", "erin"), ("bob", "frank")):
        group.of(who).add(whom)
        group.of(who).say(f"{whom} is here")
        group.exchange()
    for name in NAMES:
        assert people_of(group.of(name)) == [NAMES]
    assert [group.of("erin").texts(one) for one in group.of("erin").all] == [
        ["dave: erin is here"],
        ["bob: frank is here"],
    ]


def test_the_transcript_says_who_has_added_whom(group: Town) -> None:
    """Once, where it goes on; newcomers see nothing of before, and not that they are new."""
    alice, bob, carol, dave, erin = (group.of(name) for name in NAMES[:5])
    alice.add("dave")
    alice.say("welcome")
    group.exchange()
    for who in ("dave", "bob", "alice"):
        group.of(who).say(f"says {who}")
        group.exchange()
    said = ["alice: welcome", "dave: says dave", "bob: says bob", "alice: says alice"]
    for member in (alice, bob, carol):
        assert member.transcript(member.open[0]) == ["(alice has added dave)", *said]
    assert dave.transcript(dave.open[0]) == said
    bob.add("erin", "frank")
    bob.say("two more")
    group.exchange()
    for member in (alice, bob, carol, dave):
        new = member.open[0]
        assert member.transcript(new) == ["(bob has added erin, frank)", "bob: two more"]
    assert erin.transcript(erin.all[0]) == ["bob: two more"]


def test_it_says_of_each_who_has_added_them_at_the_same_time(group: Town) -> None:
    alice, bob = group.of("alice"), group.of("bob")
    alice.add("dave")
    bob.add("erin")
    alice.say("dave is here")
    bob.say("erin is here")
    group.exchange()
    group.of("carol").say("welcome both")
    group.exchange()
    for name in THREE:
        member = group.of(name)
        said = ["(alice has added dave)", "alice: dave is here"]
        assert member.transcript(member.with_(*NAMES[:4])) == said
        said = ["(bob has added erin)", "bob: erin is here"]
        assert member.transcript(member.with_(*THREE, "erin")) == said
        assert member.transcript(member.open[0]) == ["carol: welcome both"]


def test_it_says_so_by_what_people_are_called_now(group: Town) -> None:
    alice = group.of("alice")
    alice.add("dave")
    alice.say("welcome")
    (new,) = alice.open
    alice.store.write(lambda writer: petnames.rename(writer, "dave", "", "the new one"))
    while alice.store.write(lambda writer: petnames.relabel(writer, "dave"))[0]:
        pass
    assert alice.transcript(new) == ["(alice has added the new one)", "alice: welcome"]
    with alice.store.read() as reader:
        (message,) = history.load_messages(reader, new.id)
        assert history.transcript_extent(reader, new.id).size == message.entry_size


def test_two_who_add_at_the_same_time_go_on_together(group: Town) -> None:
    alice, bob, carol, dave, erin = (group.of(name) for name in NAMES[:5])
    alice.add("dave")
    bob.add("erin")
    alice.say("dave is here")
    bob.say("erin is here")
    group.exchange()
    for member in (alice, bob, carol):  # who were in both
        assert people_of(member) == [NAMES[:5]]
        assert [one.participants for one in member.all if not one.outbox_inode] == [
            THREE,
            *(
                [NAMES[:4], (*THREE, "erin")]
                if member is not bob
                else [(*THREE, "erin"), NAMES[:4]]
            ),
        ]
    assert people_of(dave) == [NAMES[:4]]
    assert people_of(erin) == [(*THREE, "erin")]
    carol.say("welcome both")
    group.exchange()
    for member in (alice, bob, carol, dave, erin):
        assert people_of(member) == [NAMES[:5]]
        assert member.texts(member.open[0]) == ["carol: welcome both"]


def test_two_who_add_the_same_person_begin_one_conversation(group: Town) -> None:
    for name in ("alice", "bob"):
        group.of(name).add("dave")
        group.of(name).say(f"{name} welcomes you")
    group.exchange()
    (only,) = group.of("dave").all
    assert sorted(group.of("dave").texts(only)) == [
        "alice: alice welcomes you",
        "bob: bob welcomes you",
    ]


def test_what_is_written_in_the_old_one_meanwhile_goes_to_the_old_people(group: Town) -> None:
    alice, carol, dave = group.of("alice"), group.of("carol"), group.of("dave")
    alice.add("dave")
    alice.say("welcome")
    carol.say("before I knew")
    group.exchange()
    assert alice.texts(alice.all[0]) == ["alice: hello", "carol: before I knew"]
    assert dave.texts(dave.all[0]) == ["alice: welcome"]
    assert people_of(carol) == [NAMES[:4]]


def test_a_change_that_comes_late_counts_when_it_comes(group: Town) -> None:
    """dave, whom alice has added, adds erin; carol hears him first, and of no one who has added
    him."""
    alice, carol, dave = group.of("alice"), group.of("carol"), group.of("dave")
    alice.add("dave")
    alice.say("welcome")
    group.send("alice")
    late = carol.inbox()
    group.receive("dave")
    dave.add("erin")
    dave.say("erin, too")
    group.send("dave")
    group.receive("carol")
    assert people_of(carol) == [THREE, NAMES[:5]]  # two that have nothing to do with each other
    carol.receive(late)
    assert [one.participants for one in carol.all] == [THREE, NAMES[:5], NAMES[:4]]
    (newest,) = carol.open
    assert newest.participants == NAMES[:5]
    assert {end_of(carol, one) for one in carol.all} == {newest.id}


def test_a_change_that_is_lost_is_known_by_what_others_write(group: Town) -> None:
    alice, bob, carol = group.of("alice"), group.of("bob"), group.of("carol")
    alice.add("dave")
    alice.say("welcome")
    group.send("alice")
    carol.inbox()
    group.receive("bob", "dave")
    bob.say("yes, welcome")
    group.send("bob")
    group.receive("carol")
    assert people_of(carol) == [NAMES[:4]]
    group.exchange(8)  # and what is missing is asked for
    assert sorted(carol.texts(carol.open[0])) == ["alice: welcome", "bob: yes, welcome"]


def test_a_lifetime_goes_on_as_the_first_change(group: Town) -> None:
    alice, dave = group.of("alice"), group.of("dave")
    for seconds in (60, 3_600, 86_400):
        alice.store.write(
            lambda writer, seconds=seconds: lifetimes.choose(  # type: ignore[misc]
                writer, ROOT, seconds, "alice", group.now
            )
        )
    alice.add("dave")
    message = alice.say("for a day")
    assert (message.lifetime.seconds, message.lifetime.change) == (86_400, 1)
    group.exchange()
    with dave.store.read() as reader:
        known = lifetimes.setting(reader, dave.all[0].id).lifetime
    assert known == message.lifetime


def test_who_cannot_be_added(group: Town) -> None:
    alice, bob = group.of("alice"), group.of("bob")
    old = alice.all[0]
    assert alice.add("bob") == old  # who is in it already
    bob.leave()
    group.exchange()
    for people, why in (
        (("bob",), "bob has left"),
        (("dave", "bob"), "bob has left"),
        (tuple(f"u{n:03}" for n in range(PARTICIPANTS_MAX - 1)), "at most 50"),
    ):
        known = dict.fromkeys(people)
        with pytest.MonkeyPatch.context() as patched, pytest.raises(Refused, match=why):
            patched.setattr(alice.context.look_up, "find_all", _found(known))
            alice.add(*people)
    alice.add("dave")
    with pytest.raises(Refused, match="goes on in"):
        alice.add("erin", where=alice.context.conversations[ROOT])
    alice.begin((), "to myself")
    (mine,) = [one for one in alice.open if one.participants == ("alice",)]
    with pytest.raises(Refused, match="note to yourself"):
        alice.add("dave", where=mine)
    assert len(alice.all) == 3


def _found(_known: object) -> object:
    async def find_all(_names: object) -> None:
        pass

    return find_all
