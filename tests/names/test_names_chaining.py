"""What a directory learns of who asks: nothing that tells two look-ups of one client from those of
two, and a fork that it makes for look-ups is found all the same, by the next poll."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio

from cbfs.names.directory import Directory
from cbfs.names.lookups import Polled
from cbfs_common.limits import HEADS_SEEN_MAX
from cbfs_common.names.checks import DirectoryState, Fault, Found, decode_state
from cbfs_common.names.faults import DirectoryLies
from cbfs_common.names.wire import AskHead, Lookup, Reply, Request, encode_request
from tests.support.names_liar import Liar
from tests.support.names_naive import NOW, make_entry, make_policy
from tests.support.names_server import Kept, answering, client

ALICE, BOB = make_entry("alice"), make_entry("bob")


@dataclass
class Here:
    """A directory that keeps every request as it came, and clients of it."""

    liar: Liar
    new: Callable[[], Directory]
    said: list[bytes] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def state(self, number: int = 0) -> DirectoryState:
        stored = self.kept[number].state
        assert stored is not None
        return decode_state(stored)

    async def client(self) -> Directory:
        """One that has looked a name up."""
        made = self.new()
        await made.lookups.lookup("alice")
        return made

    async def shows_a_fork(self, client: Directory, more: int = 0) -> None:
        """To one look-up: a round in which the name is mallory's, and some ``more``."""
        with self.liar.memory():
            self.liar.put(make_entry("bob", profile=b"mallory's"))
            for _ in range(more):
                self.liar.put()
            found = await client.lookups.lookup("bob")
        assert isinstance(found, Found)
        assert found.entry.profile == b"mallory's"


async def poll(directory: Directory) -> Polled:
    async def mark(polled: Polled) -> None:
        pass

    return await directory.lookups.poll(mark)


async def fault(directory: Directory) -> Fault:
    with pytest.raises(DirectoryLies) as caught:
        await poll(directory)
    return caught.value.fault


def at_a_directory(body: Callable[[Here], object]) -> None:
    async def go() -> None:
        liar = Liar(clock=lambda: float(NOW))
        liar.put(ALICE, BOB)

        def answer(request: Request) -> Reply | None:
            here.said.append(encode_request(request))
            return liar.answer(request)

        async with answering(answer) as address:

            def new() -> Directory:
                here.kept.append(Kept())
                return client(make_policy(address), here.kept[-1], lambda: float(NOW))

            here = Here(liar, new)
            await body(here)  # type: ignore[misc]  # an async function

    trio.run(go)


def test_look_ups_of_clients_that_know_different_heads_are_the_same_bytes() -> None:
    """It cannot chain a client's look-ups by the size that the last one has shown it."""

    async def body(here: Here) -> None:
        clients = []
        for rounds in (0, 3, 5):
            for _ in range(rounds):
                here.liar.put()
            clients.append(await here.client())
        here.said.clear()
        for each in clients:
            await each.lookups.lookup("bob")
            await each.lookups.lookup("bob", BOB)
        assert len(here.said) == 6
        assert len(set(here.said)) == 1

    at_a_directory(body)


def test_a_fork_that_a_look_up_shows_is_found_at_the_next_poll() -> None:
    async def body(here: Here) -> None:
        alice = await here.client()
        await here.shows_a_fork(alice, more=1)
        for _ in range(4):
            here.liar.put()
        assert await fault(alice) is Fault.FORK
        assert await fault(alice) is Fault.FORK, "once seen, it is not forgotten"
        assert await fault(client(alice.lookups.policy, here.kept[0], lambda: float(NOW))) is (
            Fault.FORK
        ), "nor after a restart"

    at_a_directory(body)


def test_a_fork_of_one_size_is_found_at_once() -> None:
    async def body(here: Here) -> None:
        alice = await here.client()
        await here.shows_a_fork(alice)
        here.liar.put()
        with pytest.raises(DirectoryLies) as caught:
            await alice.lookups.lookup("alice")
        assert caught.value.fault is Fault.FORK

    at_a_directory(body)


def test_a_poll_that_hides_what_a_look_up_has_shown_is_refused() -> None:
    async def body(here: Here) -> None:
        alice = await here.client()
        await here.shows_a_fork(alice)
        assert await fault(alice) is Fault.SMALLER

    at_a_directory(body)


def test_an_honest_log_leads_through_all_that_look_ups_have_shown() -> None:
    async def body(here: Here) -> None:
        alice = await here.client()
        for number in range(9):
            here.liar.put()
            await alice.lookups.lookup("bob")
            assert [each.size for each in here.state().seen] == list(range(3, 4 + number))
        here.liar.put()
        await poll(alice)
        assert here.state().seen == ()
        assert here.state().head == here.state().feed
        assert here.state().size == 12

    at_a_directory(body)


def test_heads_that_look_ups_show_are_followed_before_there_are_too_many() -> None:
    """By requests that everybody makes; what has changed is told by the next poll all the same."""

    async def body(here: Here) -> None:
        alice = await here.client()
        here.liar.put(make_entry("bob", version=2))
        for _ in range(HEADS_SEEN_MAX + 1):
            here.liar.put()
            await alice.lookups.lookup("bob")
        assert here.state().seen == ()
        assert here.state().feed.size < here.state().head.size
        followed = [r for r in here.liar.requests if not isinstance(r, Lookup)]
        assert followed
        assert followed[0] == AskHead()
        assert len((await poll(alice)).changed) == 1

    at_a_directory(body)


def test_a_fork_is_found_when_too_many_heads_wait_for_a_poll() -> None:
    async def body(here: Here) -> None:
        alice = await here.client()
        await here.shows_a_fork(alice)
        here.liar.put()
        with pytest.raises(DirectoryLies) as caught:
            for _ in range(HEADS_SEEN_MAX + 1):
                here.liar.put()
                await alice.lookups.lookup("alice")
        assert caught.value.fault is Fault.FORK
        assert len(here.state().seen) <= HEADS_SEEN_MAX

    at_a_directory(body)


@pytest.mark.parametrize(
    ("looked_up", "others"),
    [((9, 9, 70, 126), ()), ((9, 150), (70, 190, 191)), ((260, 262), (257,))],
    ids=["before a proof", "in the same stretch", "near the end"],
)
def test_how_the_log_is_followed_says_nothing_of_look_ups(
    monkeypatch: pytest.MonkeyPatch, looked_up: tuple[int, ...], others: tuple[int, ...]
) -> None:
    """Not how many heads they have shown, nor, but for stretches of FOLLOW_MAX rounds, which."""
    monkeypatch.setattr("cbfs.names.lookups.FOLLOW_MAX", 128)

    async def body(here: Here) -> None:
        clients = [await here.client(), await here.client()]
        for number in range(3, 265):
            here.liar.put()
            for each, when in zip(clients, (looked_up, others), strict=True):
                if number in when:
                    await each.lookups.lookup("alice")
        asked = []
        for each in clients:
            here.said.clear()
            await poll(each)
            asked.append(here.said.copy())
        assert asked[0] == asked[1]

    at_a_directory(body)
