"""A crash while a name directory is added or removed leaves all of it, or nothing."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from cbfs.context import Context, Events
from cbfs.engine.directories import EngineDirectories
from cbfs.messages import conversations, petnames
from cbfs.problems import Problems
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.names.checks import new_state
from tests.names.test_names_followed import BOB, HOME, THERE, opened
from tests.support.killing import Kill, KillingEnv, every_point
from tests.support.stores import open_store

TALK = b"t" * 16
PEOPLE = tuple(sorted(("alice", BOB)))


class Moved:
    """Hears of conversations that have another folder."""

    def conversation_moved(self, _old: object, _new: object) -> None:
        """It is read from the disk."""


def directories_of(store: Store) -> EngineDirectories:
    async def commit(change: Callable[[Writer], Any]) -> Any:
        return store.write(change)

    store.commit = commit  # type: ignore[method-assign, assignment]
    followed = opened(store)
    context = SimpleNamespace(
        followed=followed,
        problems=Problems(lambda: None),
        sessions=SimpleNamespace(lock=trio.Lock()),
        contacts=SimpleNamespace(directories=followed.directories, all=lambda: ()),
        conversations={},
        store=store,
    )
    return EngineDirectories(cast(Context, context), cast(Events, Moved()), lambda _which: None)


def _follow_and_leave(place: Path, number: int) -> int:
    """Add a directory, follow its log, remove it; killed at the n-th point."""
    store = open_store(place)
    store.write(lambda w: conversations.add_conversation(w, TALK, BOB, PEOPLE, "", 0))
    store._env = KillingEnv(store._env, Kill(number))

    async def work() -> None:
        directories = directories_of(store)
        await directories.follow(THERE.encode().encode())
        key = Meta.LOG + THERE.directory
        store.write(lambda writer: writer.put(Table.META, key, new_state(THERE).encode()))
        await directories.leave(THERE.directory)

    trio.run(work)
    return 0


def test_a_crash_leaves_a_directory_followed_or_not(tmp_path: Path) -> None:
    seen = []
    for place in every_point(_follow_and_leave, tmp_path):
        store = open_store(place)
        policies = [each.policy for each in opened(store).all()]
        with store.read() as reader:
            (talk,) = conversations.load_conversations(reader).values()
            shown, pending = conversations.label(reader, BOB), petnames.pending(reader)
            log = reader.get(Table.META, Meta.LOG + THERE.directory) is not None
        follows = policies == [HOME, THERE]
        assert follows or policies == [HOME]
        assert shown == ("bob@b.org" if follows else BOB)
        assert talk.folder == f"1970-01-01-{shown}-alice"
        assert pending == [BOB] if follows else set(pending) <= {BOB}
        assert follows or not log
        seen.append((follows, log))
        store.close()
    assert set(seen) == {(False, False), (True, False), (True, True)}
