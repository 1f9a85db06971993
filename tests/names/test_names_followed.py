"""Several name directories of one account: which are followed, what their people are called, and
what of them is doubted."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.contacts.contact import How
from cbfs.contacts.contacts import Contacts
from cbfs.contacts.feeds import Feeds
from cbfs.context import Context, Events
from cbfs.engine.directories import EngineDirectories
from cbfs.messages import conversations, petnames
from cbfs.messages.conversations import label
from cbfs.names.followed import (
    FollowedDirectories,
    PolicyRefused,
    UnknownDirectory,
    UnknownNamespace,
)
from cbfs.names.lookups import Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs.problems import Problems, Retries
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.limits import DIRECTORIES_MAX
from cbfs_common.names.checks import new_state
from cbfs_common.names.config import Terms
from cbfs_common.names.entry import CHANGE_SIZE, name_index
from cbfs_common.names.policy import Policy
from cbfs_common.names.proofs import encode_bundle
from cbfs_common.person import Directories, Person, directory_text
from cbfs_common.profile import Address
from cbfs_common.wire.transport import ServerSecret
from cbfs_names.state.keys import ServerKeys
from tests.support.fake_backend import PROFILE
from tests.support.names_naive import Forger, make_entry
from tests.support.names_server import Kept, seeded_random
from tests.support.stores import open_store


def policy(number: int, namespace: str, port: int = 1) -> Policy:
    """That of the directory with this number."""
    log, verifier = bytes([number]) * 32, bytes([number, 1]) * 16
    keys = ServerKeys(ServerSecret(bytes([number]) * 96), log, verifier)
    return keys.config(Terms(), namespace).policy(Address(keys.server, "127.0.0.1", port))


HOME, THERE, CLAIMING = (policy(n, name) for n, name in ((1, "a.org"), (2, "b.org"), (3, "b.org")))
BOB = Directories(HOME.directory).text(Person(THERE.directory, "bob"))


def opened(store: Store) -> FollowedDirectories:
    kept = Kept()
    own = Lookups(
        LoopbackDialer(), HOME, kept.load, kept.save, lambda: 0.0, seeded_random(b"followed")
    )
    return FollowedDirectories(store, Directories(HOME.directory), own)


def follow(store: Store, followed: FollowedDirectories, wanted: Policy) -> None:
    followed.check(wanted)
    store.write(lambda writer: followed.write(writer, wanted))
    followed.took(wanted)


def working(store: Store, body: Callable[[], Awaitable[object]]) -> None:
    """With a store that commits."""

    async def go() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await body()
            nursery.cancel_scope.cancel()

    trio.run(go)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path)
    yield made
    made.close()


def test_what_is_followed_is_followed_after_a_restart(store: Store) -> None:
    followed = opened(store)
    news = followed.next_change()
    follow(store, followed, THERE)
    assert news.is_set()
    for each in (followed, opened(store)):
        assert [lookups.policy for lookups in each.all()] == [HOME, THERE]
        assert each.of(THERE.directory).policy == THERE
        assert each.of_name(BOB).title == "the name directory b.org"
        assert each.of_name("bob").policy == HOME
        with pytest.raises(UnknownDirectory):
            each.of(CLAIMING.directory)


def test_the_second_that_claims_a_namespace_is_refused(store: Store) -> None:
    followed = opened(store)
    follow(store, followed, THERE)
    for wanted in (CLAIMING, policy(4, "a.org")):
        with pytest.raises(PolicyRefused, match=f"is followed as {wanted.namespace}"):
            followed.check(wanted)
    for wanted in (policy(2, "c.org"), policy(1, "c.org")):
        with pytest.raises(PolicyRefused, match="another namespace"):
            followed.check(wanted)
    store.write(lambda writer: followed.forget(writer, THERE.directory, log=True))
    followed.forgot(THERE.directory)
    follow(store, followed, CLAIMING)
    assert followed.meant("bob", "b.org") != BOB


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("example.org", "exarnple.org", True),
        ("paypal.net", "paypa1.net", True),
        ("google.com", "g00gle.com", True),
        ("vvorld.org", "world.org", True),
        ("my-friends.org", "myfriends.org", True),
        ("example.org", "example.com", False),
        ("north.example", "south.example", False),
        ("v1.example", "v2.example", False),
    ],
)
def test_two_whose_namespaces_look_alike_are_told_of(
    one: str, other: str, alike: bool, store: Store
) -> None:
    followed = opened(store)
    for number, namespace in ((2, one), (3, other)):
        follow(store, followed, policy(number, namespace))
    pairs = [tuple(sorted(pair)) for pair in followed.alike()]
    assert pairs == ([tuple(sorted((one, other)))] if alike else [])
    context = SimpleNamespace(followed=followed)
    directories = EngineDirectories(cast(Context, context), cast(Events, None), lambda _key: None)
    assert all(one in line and other in line for line in directories.lines())
    assert len(directories.lines()) == alike


def test_another_policy_of_the_same_log_takes_its_place(store: Store) -> None:
    followed = opened(store)
    follow(store, followed, THERE)
    asked = followed.of(THERE.directory)
    follow(store, followed, policy(2, "b.org", port=2))
    assert followed.of(THERE.directory) is asked
    assert asked.policy.server.port == 2
    assert [each.policy.server.port for each in opened(store).all()] == [1, 2]


def test_no_more_than_so_many_are_followed(store: Store) -> None:
    followed = opened(store)
    for number in range(DIRECTORIES_MAX):
        follow(store, followed, policy(10 + number, f"n{number}.org"))
    with pytest.raises(PolicyRefused, match=str(DIRECTORIES_MAX)):
        followed.check(policy(99, "n99.org"))
    followed.check(policy(10, "n0.org", port=7))


def test_people_are_shown_by_the_namespace_of_their_directory(store: Store) -> None:
    followed = opened(store)
    assert followed.shown("bob") == "bob"
    assert followed.shown(BOB) == BOB == f"bob@{directory_text(THERE.directory)}"
    assert followed.meant("bob", directory_text(THERE.directory)) == BOB
    with pytest.raises(UnknownNamespace, match=r"b\.org"):
        followed.meant("bob", "b.org")
    follow(store, followed, THERE)
    assert followed.shown(BOB) == "bob@b.org"
    for place in ("b.org", "B.Org", directory_text(THERE.directory)):
        assert followed.meant("bob", place) == BOB
    for place in ("a.org", directory_text(HOME.directory)):
        assert followed.meant("bob", place) == "bob"


@pytest.mark.parametrize(
    "place",
    [
        "",
        "b..org",
        ".org",
        "b.org.",
        "b.o\u0433g",
        "b\u3002org",
        "\u212a.org",
        "b.org\n",
        "_",
        "x_y",
    ],
)
def test_what_is_no_namespace_means_nobody(place: str, store: Store) -> None:
    followed = opened(store)
    follow(store, followed, THERE)
    with pytest.raises(DecodeError):
        followed.meant("bob", place)


@given(st.text(max_size=80))
def test_any_text_means_one_person_or_is_refused(text: str) -> None:
    followed = FollowedDirectories.__new__(FollowedDirectories)
    followed.directories = Directories(HOME.directory)
    followed._others = {}
    followed.own = type("Own", (), {"policy": HOME})()
    try:
        name = followed.meant("bob", text)
    except DecodeError:
        return
    assert followed.directories.text(followed.directories.person(name)) == name


def test_by_which_policy_a_proof_is_checked_it_says_itself(store: Store) -> None:
    followed = opened(store)
    found = Forger([make_entry("bob")]).look_up("bob")
    bundle = encode_bundle(THERE.directory, found.evidence, found.links)
    with pytest.raises(UnknownDirectory):
        followed.policy_for(bundle)
    follow(store, followed, THERE)
    assert followed.policy_for(bundle) == THERE
    for other in (b"", b"noise", bundle[:-1]):
        assert followed.policy_for(other) == HOME


def test_of_what_was_removed_nothing_is_kept_afterwards(store: Store) -> None:
    """Nor by a poll that was under way."""
    followed = opened(store)
    follow(store, followed, THERE)
    lookups = followed.of(THERE.directory)

    def there() -> set[bytes]:
        with store.read() as reader:
            return {
                key for prefix in (Meta.POLICY, Meta.LOG) for key in reader.keys(Table.META, prefix)
            }

    working(store, partial(lookups._save, new_state(THERE).encode()))
    assert len(there()) == 2
    store.write(lambda writer: followed.forget(writer, THERE.directory, log=False))
    assert there() == {Meta.LOG + THERE.directory}
    store.write(lambda writer: followed.forget(writer, THERE.directory, log=True))
    working(store, partial(lookups._save, new_state(THERE).encode()))
    assert not there()


def test_folders_and_messages_are_named_after_the_namespace(store: Store) -> None:
    followed = opened(store)
    people = tuple(sorted(("alice", BOB, "carol")))

    def begin(writer: Writer) -> str:
        return conversations.add_conversation(writer, b"t" * 16, BOB, people, "", 0).folder

    assert store.write(begin) == f"1970-01-01-{BOB}-alice-carol"
    named = "1970-01-01-bob@b.org-alice-carol"
    for namespace, folder in (("b.org", named), ("", f"1970-01-01-{BOB}-alice-carol")):
        ((_old, new),) = store.write(
            partial(petnames.rename_directory, directory=THERE.directory, namespace=namespace)
        )
        assert new.folder == folder
        with store.read() as reader:
            assert label(reader, BOB) == (f"bob@{namespace}" if namespace else BOB)
            assert label(reader, "bob") == "bob"
            assert petnames.pending(reader) == [BOB]
    assert followed.shown(BOB) == BOB


async def learn(contacts: Contacts, *names: str) -> None:
    for name in names:
        person = contacts.directories.person(name)
        entry = make_entry(person.name, profile=PROFILE.encode())
        await contacts.learn(name, entry, How.DIRECTORY)


def test_namesakes_are_two_people(store: Store) -> None:
    followed = opened(store)
    follow(store, followed, THERE)
    contacts = Contacts(store, followed, b"i" * 32, lambda: 1, lambda _w, _n: None)

    async def body() -> None:
        await learn(contacts, "bob", BOB)
        assert [contacts.label(name) for name in ("bob", BOB)] == ["bob", "bob@b.org"]
        assert contacts.called("bob") == "bob"
        assert contacts.called("bob@b.org") == contacts.called("BOB@B.org") == BOB
        assert "has the name of bob" in contacts.named(BOB).warning
        assert contacts.identity("bob", PROFILE) != contacts.identity(BOB, PROFILE)
        assert contacts.of_identity(contacts.identity(BOB, PROFILE)) == contacts.named(BOB)
        text = contacts.compare(contacts.named(BOB)).text("alice", "bob@b.org")
        assert not await contacts.verify("bob", text)
        assert await contacts.verify(BOB, text)
        assert (contacts.named("bob").verified, contacts.named(BOB).verified) == (0, 1)
        # what changes in one directory is nothing to the people of another
        there = name_index(THERE.directory, "bob")[:CHANGE_SIZE]
        await contacts.doubt(THERE.directory, {there: 10**6})
        assert (contacts.named("bob").doubted, contacts.named(BOB).doubted) == (0, 1)
        prefix = name_index(HOME.directory, "bob")[:CHANGE_SIZE]
        await contacts.doubt(THERE.directory, {prefix: 10**6})
        assert not contacts.named("bob").doubted
        await contacts.doubt(HOME.directory, {prefix: 10**6})
        assert contacts.named("bob").doubted
        again = Contacts(store, opened(store), b"i" * 32, lambda: 1, lambda _w, _n: None)
        assert again.all() == contacts.all()

    working(store, body)


def test_a_poll_of_another_directory_hastens_nothing(store: Store) -> None:
    """When it answers, it says: what else is tried must not come sooner by that."""
    followed = opened(store)
    follow(store, followed, THERE)
    contacts = Contacts(store, followed, b"i" * 32, lambda: 1, lambda _w, _n: None)
    retries, hastened, polled = Retries(SYSTEM_RANDOM), list[str](), list[str]()
    retries.sooner_than_said = lambda: hastened.append(polled[-1])

    async def nothing(_polled: object) -> None:
        """Of one's own name there is no news."""

    feeds = Feeds(
        contacts,
        followed,
        Problems(lambda: None),
        retries,
        SYSTEM_RANDOM,
        nothing,
        lambda: None,
    )

    async def poll(lookups: Lookups) -> None:
        polled.append(lookups.policy.namespace)

    feeds.poll = poll  # type: ignore[method-assign]

    async def body() -> None:
        for lookups in (followed.of(THERE.directory), followed.own):
            retries.failed("something")  # nothing was reached, as far as is known
            with trio.move_on_after(1e-6):  # its next poll is far away
                await feeds._poll_for_ever(lookups)

    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0))
    assert polled == ["b.org", "a.org"]
    assert hastened == ["a.org"]
