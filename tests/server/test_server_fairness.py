"""Who asks for much of the message server's time waits for who asks for little."""

import socket
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.wire.fields import Request
from cbfs_common.wire.requests import CreateAccount, Delete, Deliver, List, encode
from cbfs_server import sockets, turns
from cbfs_server.limits import LIST_PAGE, TURN_BURST, TURN_DRAIN, TURN_TIME
from cbfs_server.lmdb_store import store as store_module
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.service import Service
from cbfs_server.store import fair_queue
from cbfs_server.store.fair_queue import LOOK_COST, FairQueue
from cbfs_server.store.operations import NoChange
from cbfs_server.turns import Turns
from tests.server.test_acknowledged import Client, message_server
from tests.server.test_server_store import ALICE, Caller, Clock, lmdb_of, play, serving
from tests.support.serving import TIMEOUT, envelope

OWNERS = st.integers(0, 4)


@given(st.lists(st.tuples(OWNERS, st.floats(0.001, 1.0)), max_size=60), st.data())
def test_what_one_owner_puts_keeps_its_order_and_all_of_it_comes_out(
    things: list[tuple[int, float]], data: st.DataObject
) -> None:
    queue = FairQueue[tuple[int, int, float]]()
    taken: list[tuple[int, int, float]] = []
    cost = 0.0
    for number, (owner, each) in enumerate(things):
        queue.put(owner, (owner, number, each))
        while len(taken) <= number and data.draw(st.booleans()):
            thing = queue.get_nowait(cost) or queue.get(0.0)
            assert thing is not None
            taken.append(thing)
            cost = thing[2]
    queue.close()
    while thing := queue.get(cost):
        taken.append(thing)
        cost = thing[2]
    for owner in range(5):
        mine = [number for of, number, _ in taken if of == owner]
        assert mine == [number for number, (of, _) in enumerate(things) if of == owner]


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5))
def test_owners_who_always_have_more_share_by_cost(costs: list[float]) -> None:
    """However dear the things of each are: nobody is ahead by more than one thing of each."""
    queue = FairQueue[int]()
    for owner in range(len(costs)):
        for _ in range(2):
            queue.put(owner, owner)
    spent = [0.0] * len(costs)
    cost = 0.0
    for _ in range(200):
        taken = queue.get(cost)
        assert taken is not None
        queue.put(taken, taken)
        cost = costs[taken]
        spent[taken] += cost
    assert max(spent) - min(spent) <= 2 * max(costs) + 1e-6


def test_who_comes_waits_for_what_is_under_way_and_no_more() -> None:
    queue = FairQueue[str]()
    for _ in range(500):
        queue.put("flood", "flood")
    for _ in range(10):
        assert queue.get(0.003) == "flood"
    queue.put("honest", "honest")
    assert queue.get_nowait(0.003) == "honest"
    assert queue.get_nowait(0.0001) == "flood"


def test_what_comes_is_looked_at_after_a_while_of_cheap_things_and_no_memory_is_lost_by_it() -> (
    None
):
    queue = FairQueue[str]()
    for _ in range(100):
        queue.put("flood", "flood")
    assert queue.get(0.0) == "flood"
    queue.put("honest", "honest")
    assert [queue.get_nowait(LOOK_COST / 4) for _ in range(4)] == ["flood"] * 4
    assert queue.get_nowait(LOOK_COST / 4) == "honest"
    # what waits unseen keeps what its owner has had in mind
    one, other = FairQueue[str](), FairQueue[str]()
    for each in (one, other):
        each.put("dear", "first")
        assert each.get(0.0) == "first"
    one.put("dear", "again")
    one.put("cheap", "cheap")
    assert [one.get_nowait(LOOK_COST / 2), one.get_nowait(0.0)] == ["cheap", "again"]
    assert one.get_nowait(0.0) is None


def test_under_load_newcomers_wait_for_strangers_and_those_for_owners() -> None:
    queue = FairQueue[str]()
    for number in range(50):
        for rank, who in (2, "newcomer"), (1, "stranger"), (0, "owner"):
            queue.put((who, number), who, rank)
    taken = [queue.get(0.001) for _ in range(150)]
    assert taken == ["owner"] * 50 + ["stranger"] * 50 + ["newcomer"] * 50


@pytest.mark.parametrize("rank", [1, 2], ids=["stranger", "newcomer"])
def test_owners_who_come_again_with_one_thing_each_keep_nobody_waiting(rank: int) -> None:
    """Each has one thing under way at a time, and is answered while others wait."""
    queue, owners, taken = FairQueue[str](), 40, list[str]()
    for number in range(owners):
        queue.put(number, str(number))
    for at in range(20 * owners):
        if at == 10 * owners:
            queue.put("honest", "honest", rank)
        found = queue.get(0.002)
        assert found is not None
        taken.append(found)
        if at and taken[at - 1] != "honest":
            queue.put(int(taken[at - 1]), taken[at - 1])
    assert "honest" in taken[: 12 * owners]


def test_what_a_queue_remembers_of_owners_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "FINISHED_MAX", 8)
    queue = FairQueue[int]()
    queue.put(0, 0)
    for number in range(1, 100):
        queue.put(number, number)
        assert queue.get(0.002) is not None
        assert len(queue._finished) <= 8
    queue.close()
    while queue.get(0.002) is not None:
        assert len(queue._finished) <= 8
    assert not queue._finished


class Noting(Caller):
    """Says in which order the answers come."""

    def __init__(self, service: Service, key: bytes, done: list[str]) -> None:
        super().__init__(service, key)
        self._done = done
        self._asked = ""

    def send(self, id: int, payload: bytes) -> None:
        self._done.append(self._asked)
        super().send(id, payload)

    async def ask(self, request: Request[Any]) -> Any:
        self._asked = type(request).__name__
        return await super().ask(request)


def test_what_anybody_asks_has_its_rank(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three connections each, in the order that is the worst."""
    monkeypatch.setattr(fair_queue, "LOOK_COST", -1.0)  # however little what is under way takes
    done: list[str] = []

    async def script() -> None:
        async with serving(memory / "store", Clock()) as service:
            await Caller(service, ALICE).ask(CreateAccount())

            busy = threading.Event()
            lmdb_of(service).apply(lambda _: busy.wait(TIMEOUT), lambda _: None)
            async with trio.open_nursery() as nursery:
                for each in CreateAccount(), Deliver(ALICE, envelope()), Delete(()):
                    for number in range(3):
                        key = ALICE if isinstance(each, Delete) else bytes([number]) * 32
                        nursery.start_soon(Noting(service, key, done).ask, each)
                    await trio.testing.wait_all_tasks_blocked()
                busy.set()

    play(script)
    assert done == ["Delete"] * 3 + ["Deliver"] * 3 + ["CreateAccount"] * 3


def test_a_queue_wakes_who_waits_for_it() -> None:
    queue = FairQueue[int]()
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.extend((queue.get(0.0), queue.get(0.0))))
    thread.start()
    queue.put("somebody", 1)
    queue.close()
    thread.join(TIMEOUT)
    assert got == [1, None]


def test_a_change_is_on_the_disk_before_those_that_a_flood_has_queued(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a transaction ends in time for it, whatever waits."""
    monkeypatch.setattr(store_module, "GROUP_TIME", 0.0)
    order: list[str] = []

    def change(who: str, _writer: MailboxWriter) -> None:
        order.append(who)

    async def script() -> None:
        store = LmdbStore(memory / "store")
        for _ in range(100):
            store.apply(partial(change, "flood"), lambda _: None, "flood")
        store.apply(partial(change, "honest"), lambda _: None, "honest")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await store.commit(NoChange())
            nursery.cancel_scope.cancel()
        store.close()

    play(script)
    assert order.index("honest") <= 1
    assert len(order) == 101


def test_changes_that_fill_a_transaction_each_count_as_well(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However low the rank of those is who have many of them."""
    monkeypatch.setattr(store_module, "GROUP_TIME", 0.001)
    order: list[str] = []

    def change(who: str, _writer: MailboxWriter) -> None:
        order.append(who)
        time.sleep(0.002)

    async def script() -> None:
        store = LmdbStore(memory / "store")
        for _ in range(50):
            store.apply(partial(change, "owner"), lambda _: None, "owner")
        store.apply(partial(change, "stranger"), lambda _: None, "stranger", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await store.commit(NoChange())
            nursery.cancel_scope.cancel()
        store.close()

    play(script)
    assert order.index("stranger") <= 1
    assert len(order) == 51


def test_a_bucket_is_full_after_a_burst_and_leaks() -> None:
    empty = turns.count(0.0, 1.0, 1.0 + TURN_BURST)
    assert not turns.is_over(empty, 1.0 + TURN_BURST)
    empty = turns.count(empty, 1.0 + TURN_BURST, 1.0 + TURN_BURST + 0.001)
    assert turns.is_over(empty, 1.0 + TURN_BURST + 0.001)
    now = 1.001 + TURN_BURST
    empty = turns.waited(empty, now)
    assert not turns.is_over(turns.count(empty, now, now + TURN_TIME), now + TURN_TIME)
    more = now + 2 * TURN_TIME
    assert turns.is_over(turns.count(empty, now, more), more)
    idle = 2.0 + TURN_BURST / TURN_DRAIN
    assert not turns.is_over(turns.count(empty, idle, idle + TURN_BURST), idle + TURN_BURST)


def test_what_is_left_of_a_turn_is_over_when_nothing_is_left_to_do() -> None:
    now = 1.0
    much = turns.count(0.0, now, now + 2 * TURN_BURST)
    some = turns.count(turns.waited(much, now), now, now + TURN_TIME / 8)
    for empty in much, some:
        left = turns.ended(empty, now)
        assert not turns.is_over(left, now)
        assert turns.is_over(turns.count(left, now, now + TURN_TIME / 8), now)
    few = turns.count(0.0, now, now + TURN_BURST - 2 * TURN_TIME)
    assert turns.ended(few, now) == few, "it has had none"


def test_who_stands_in_line_does_so_each_time_that_there_is_something_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little of its turn it has used. Else those of whom each asks for little at a time,
    again and again, would all be let through between two looks at others."""
    seconds = count(1.0, TURN_TIME / 8)
    waits, wait = list[None](), Turns.wait

    async def counted(line: Turns) -> None:
        waits.append(None)
        await wait(line)

    async def main() -> None:
        monkeypatch.setattr(sockets, "perf_counter", lambda: next(seconds))
        monkeypatch.setattr(Turns, "wait", counted)
        with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(TIMEOUT):
            listener.setblocking(False)
            async with message_server(listener, tmp_path):
                stream = await trio.open_tcp_stream(*listener.getsockname())
                async with stream:
                    client = Client(stream)
                    await stream.send_all(client.transport.start())
                    await client.receive()
                    await stream.send_all(client.transport.data_to_send())
                    while not waits:
                        await ask(client)
                    waits.clear()
                    for number in range(1, 40):
                        await ask(client)
                        assert len(waits) >= number

    async def ask(client: Client) -> None:
        await client.stream.send_all(client.transport.send(1, encode(List(b""))))
        await client.receive()

    trio.run(main)


def test_those_in_line_are_let_through_one_at_a_time() -> None:
    """Between two of them everybody else has had a turn."""
    happened: list[str] = []

    async def greedy(turns: Turns) -> None:
        await turns.wait()
        happened.append("greedy")

    async def light() -> None:
        while happened.count("greedy") < 5:
            happened.append("light")
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        turns = Turns()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(greedy, turns)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(turns.run)
            nursery.start_soon(light)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    greedy_at = [n for n, who in enumerate(happened) if who == "greedy"]
    assert len(greedy_at) == 5
    within = zip(greedy_at, greedy_at[2:], strict=False)  # the order of those of one turn is any
    assert all(later - earlier > 2 for earlier, later in within)


def test_who_is_the_only_one_over_it_waits_for_nobody() -> None:
    passed: list[str] = []

    async def wait(turns: Turns, who: str) -> None:
        await turns.wait()
        passed.append(who)

    async def main() -> None:
        turns = Turns()
        async with trio.open_nursery() as nursery:
            for who in ("first", "second"):
                nursery.start_soon(wait, turns, who)
                await trio.testing.wait_all_tasks_blocked()
            assert passed == ["first"]  # nobody else has been looked at since
            nursery.start_soon(turns.run)
            await trio.testing.wait_all_tasks_blocked()
            assert passed == ["first", "second"]
            with trio.fail_after(0):
                await turns.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_list_has_pages_of_a_bounded_size_and_passes_over_damage(tmp_path: Path) -> None:
    async def script() -> None:
        async with serving(tmp_path / "store", Clock(), 1_000) as service:
            alice = Caller(service, ALICE)
            await alice.ask(CreateAccount())
            for _ in range(LIST_PAGE + 2):
                await alice.ask(Deliver(ALICE, envelope()))
            first = await alice.ask(List())
            assert (len(first.ids), first.more) == (LIST_PAGE, True)
            last = await alice.ask(List(first.ids[-1]))
            assert (len(last.ids), last.more) == (2, False)
            none = await alice.ask(List(last.ids[-1]))
            assert (none.ids, none.more) == ((), False)
            store = lmdb_of(service)
            table = store._tables.order
            with store._env.begin(write=True) as txn:
                txn.put(ALICE + (1).to_bytes(8, "big"), bytes(24), db=table.db)
            again = await alice.ask(List())
            assert (again.ids, again.more) == ((*first.ids[1:], last.ids[0]), True)

    play(script)
