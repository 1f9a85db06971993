"""The user adds and removes name directories.

Each decision is one transaction, in which the policy, the namespace that people are shown with and
the names of their conversations' folders become others together: a crash before it leaves all as
it was. Files of messages follow little by little (``cbfs.messages.petnames``).
"""

from collections.abc import Callable

import trio

from cbfs.account.account import put_policy
from cbfs.context import Context, Events
from cbfs.messages import petnames
from cbfs.messages.model import Conversation
from cbfs.names.followed import PolicyRefused
from cbfs.storage.faults import harmless
from cbfs.storage.store import Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.policy import Policy, parse_policy

TOPIC = "policy"


class EngineDirectories:
    """The name directories of an account at work. ``changed`` is given one (16) that is followed
    by another policy than before, or no more, when that is on the disk."""

    def __init__(self, context: Context, events: Events, changed: Callable[[bytes], None]) -> None:
        self._context = context
        self._events = events
        self._changed = changed
        self._lock = trio.Lock()

    def policies(self) -> tuple[Policy, ...]:
        """By which directories are followed: one's own first, the others by namespace."""
        return tuple(each.policy for each in self._context.followed.all())

    def lines(self) -> tuple[str, ...]:
        """For ``status``: which of them are easily taken for each other."""
        return tuple(
            f"{one} and {other} look alike, and are two name directories: people of one are not"
            f" those of the other (if you do not know both: rm directories/{other})"
            for one, other in self._context.followed.alike()
        )

    async def follow(self, data: bytes, *, only_new: bool = False) -> None:
        """Follow the directory of this policy file, or one that is followed by this policy instead,
        but not with ``only_new``; on the disk on return. Raises PolicyRefused; then nothing has
        changed."""
        followed, problems = self._context.followed, self._context.problems
        async with self._lock:
            try:
                policy = parse_policy(_text(data))
                followed.check(policy)
            except (DecodeError, PolicyRefused) as error:
                problems.set(TOPIC, f"a policy was not taken: {error.in_full}")
                raise PolicyRefused(str(error), error.hint) from error
            there = policy.directory in {each.directory for each in self.policies()}
            if there and only_new:
                return
            moved: list[tuple[Conversation, Conversation]] = []
            if policy.directory == followed.directories.own:
                await self._context.store.commit(lambda writer: put_policy(writer, policy.encode()))
            elif there:
                await self._context.store.commit(lambda writer: followed.write(writer, policy))
            else:
                moved = await self._rename(
                    policy.directory, policy.namespace, lambda w: followed.write(w, policy)
                )
            followed.took(policy)
            problems.clear(TOPIC)
            self._tell(policy.directory, moved)

    async def leave(self, directory: bytes) -> None:
        """Follow a directory no more, which is not one's own; on the disk on return. Its people
        stay, under names with the directory itself: nothing is sent to them, and what is new of
        them cannot be checked. How far its log was followed is kept as long as there are any."""
        context, followed = self._context, self._context.followed
        async with self._lock:
            if directory not in {each.directory for each in self.policies()}:
                return  # it was removed a moment ago
            people = context.contacts.directories
            mine = (people.person(c.name).directory for c in context.contacts.all())
            log = directory not in mine
            moved = await self._rename(
                directory, "", lambda writer: followed.forget(writer, directory, log=log)
            )
            followed.forgot(directory)
            self._tell(directory, moved)

    async def _rename(
        self, directory: bytes, namespace: str, also: Callable[[Writer], None]
    ) -> list[tuple[Conversation, Conversation]]:
        context = self._context

        def change(writer: Writer) -> list[tuple[Conversation, Conversation]]:
            also(writer)
            return petnames.rename_directory(writer, directory, namespace)

        async with context.sessions.lock:
            moved = await context.store.commit(change)
            for _old, new in moved:
                context.conversations[new.id] = new
        return moved

    def _tell(self, directory: bytes, moved: list[tuple[Conversation, Conversation]]) -> None:
        for old, new in moved:
            with harmless():
                self._events.conversation_moved(old, new)
        with harmless():
            self._changed(directory)


def _text(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError(
            "it is not a policy: it has other characters than ASCII",
            "ask the directory's operator for its policy file",
        ) from error


def reason(error: CbfsError) -> str:
    """For the user, why a policy was not taken, and what to do."""
    hint = f"What to do: {error.hint}.\n" if error.hint else ""
    return f"Nothing was changed: {error}.\n{hint}"
