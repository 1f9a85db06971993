"""What is delivered and rides: what is told of it when it is noted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues import delivery_queue
from cbfs.problems import Problems
from cbfs.sending import finishing
from cbfs.sending.finishing import Finishing
from cbfs.storage.store import Store
from tests.support.stores import open_store
from tests.tree.test_index import message

KEY = bytes(40)


class Heard:
    """What is told of messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def notes_due(self, dues: object) -> None:
        pass

    def message_changed(self, message: Message) -> None:
        self.messages.append(message)


async def finishing_in(store: Store, nursery: trio.Nursery, heard: Heard) -> Finishing:
    await nursery.start(store.run)
    context: Any = SimpleNamespace(
        store=store, clock=lambda: 1_000, problems=Problems(lambda: None), random=None
    )
    events: Any = heard
    return Finishing(context, events, nursery)


async def settled(made: Finishing) -> None:
    with trio.fail_after(30):
        while made.of("bob"):
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()


def test_an_envelope_may_be_delivered_twice_within_one_ride(tmp_path: Path) -> None:
    """As two connections may bring it to the server side by side."""

    async def main() -> None:
        store = open_store(tmp_path)
        async with trio.open_nursery() as nursery:
            made = await finishing_in(store, nursery, Heard())
            for _ in range(2):
                await made.finish("bob", [KEY], at_once=False)
            assert made.of("bob") == {KEY}
            await store.commit(lambda _writer: None)
            await settled(made)
            nursery.cancel_scope.cancel()
        store.close()

    trio.run(main)


@pytest.mark.parametrize("receipt", [False, True])
def test_a_state_that_has_been_moved_on_from_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, receipt: bool
) -> None:
    """A receipt that came into the same commit has told of the newer one."""
    sent = replace(message(1, bytes(16), "alice", 1), recipients=(("bob", Delivery.SENT),))
    now = replace(sent, recipients=(("bob", Delivery.RECEIVED),)) if receipt else sent
    monkeypatch.setattr(delivery_queue, "finish", lambda *_: [sent])
    monkeypatch.setattr(finishing, "get_message", lambda *_: now)
    heard = Heard()

    async def main() -> None:
        store = open_store(tmp_path)
        async with trio.open_nursery() as nursery:
            made = await finishing_in(store, nursery, heard)
            await made.finish("bob", [KEY], at_once=False)
            await settled(made)
            nursery.cancel_scope.cancel()
        store.close()

    trio.run(main)
    assert heard.messages == ([] if receipt else [sent])
