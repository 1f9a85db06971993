"""The name directories that an account follows: its own, which has its name, and those whose
policies the user has added.

A directory is who has the key of its log, and stands by 16 bytes wherever a person is named; its
namespace is what people see of it. Of two that claim one namespace only one can be followed.
``Table.META`` has ``policy DIRECTORY`` of each that was added, in the form of ``Policy.encode``,
and ``log DIRECTORY``, how far its log was followed. One's own has its policy in the account, and
``directory``.
"""

from collections.abc import Awaitable, Callable
from itertools import combinations

import trio

from cbfs.names.lookups import Lookups
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import DIRECTORIES_MAX
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import decode_bundle
from cbfs_common.person import (
    Directories,
    Person,
    check_name,
    check_namespace,
    directory_text,
    read_directory_text,
)

_LOOKS = (
    *(("rn", "m"), ("vv", "w"), ("cl", "d"), ("0", "o"), ("1", "l"), ("i", "l"), ("5", "s")),
    *(("-", ""), (".", "")),
)
"""What is easily read as what, in that order."""


def look_alike(one: str, other: str) -> bool:
    """Whether one of two namespaces is easily read as the other one."""
    return _looks(one) == _looks(other)


def _looks(namespace: str) -> str:
    for what, like in _LOOKS:
        namespace = namespace.replace(what, like)
    return namespace


class UnknownDirectory(CbfsError):
    """Somebody is of a directory (16) that is not followed."""

    def __init__(self, directory: bytes) -> None:
        super().__init__(
            f"the name directory {directory_text(directory)} is not followed",
            "get its policy file from somebody whom you trust: cp POLICY directories/",
        )
        self.directory = directory


class UnknownNamespace(DecodeError):
    """A name at a namespace that no directory which is followed has."""

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"no name directory of the namespace {namespace} is followed",
            "get its policy file from somebody whom you trust: cp POLICY directories/",
        )


class PolicyRefused(CbfsError):
    """A policy that cannot be followed beside the others; nothing has changed."""


class FollowedDirectories:
    """The directories of one account. ``own`` asks the one that has its name."""

    def __init__(self, store: Store, directories: Directories, own: Lookups) -> None:
        """``directories``: what people are called here. The others are asked as ``own`` is: by the
        same dialer, each over connections of its own. Raises DecodeError when what was stored is
        damaged."""
        self._store = store
        self.directories = directories
        self.own = own
        self._others: dict[bytes, Lookups] = {}
        self._news = trio.Event()
        with store.read() as reader:
            stored = [data for _key, data in reader.items(Table.META, Meta.POLICY)]
        for data in stored:
            self.took(parse_policy(data.decode()))

    def all(self) -> tuple[Lookups, ...]:
        """All that are followed, one's own first, the others by namespace."""
        others = sorted(self._others.values(), key=lambda each: each.policy.namespace)
        return (self.own, *others)

    def alike(self) -> list[tuple[str, str]]:
        """Namespaces that are easily taken for each other, in pairs."""
        known = [each.policy.namespace for each in self.all()]
        return [pair for pair in combinations(known, 2) if look_alike(*pair)]

    def of(self, directory: bytes) -> Lookups:
        """Questions to a directory (16). Raises UnknownDirectory."""
        if directory == self.directories.own:
            return self.own
        if directory not in self._others:
            raise UnknownDirectory(directory)
        return self._others[directory]

    def of_name(self, name: str) -> Lookups:
        """Questions to the directory that has somebody's name. Raises UnknownDirectory."""
        return self.of(self.directories.person(name).directory)

    def follows(self, name: str) -> bool:
        """Whether the directory that has somebody's name is followed."""
        directory = self.directories.person(name).directory
        return directory == self.directories.own or directory in self._others

    def policy_for(self, bundle: bytes) -> Policy:
        """By which the proof of a name is to be checked, as it says itself. Raises
        UnknownDirectory."""
        try:
            directory, _evidence, _links = decode_bundle(bundle)
        except DecodeError:
            return self.own.policy  # the checks will say so
        return self.of(directory).policy

    def next_change(self) -> trio.Event:
        """Is set when other directories are followed than now."""
        return self._news

    # what people see

    def shown(self, name: str) -> str:
        """Somebody's true name as people see it: ``bob``, ``bob@example.org``, or
        ``bob@_DIRECTORY`` of a directory that is not followed."""
        if "@" not in name:
            return name
        person = self.directories.person(name)
        known = self._others.get(person.directory)
        return f"{person.name}@{known.policy.namespace}" if known else name

    def meant(self, name: str, place: str) -> str:
        """The true name of ``name`` at ``place``, a namespace as people type it, or a directory as
        ``shown`` has it. Raises DecodeError, UnknownNamespace among it."""
        check_name(name)
        if place.startswith("_"):
            return self.directories.text(Person(read_directory_text(place), name))
        namespace = check_namespace(place.lower() if place.isascii() else place)
        for each in self.all():
            if each.policy.namespace == namespace:
                return self.directories.text(Person(each.policy.directory, name))
        raise UnknownNamespace(namespace)

    # what the user decides

    def check(self, policy: Policy) -> None:
        """Whether this can be followed beside the others, or in the place of an earlier policy of
        the same log. Raises PolicyRefused."""
        known = next((e for e in self.all() if e.policy.directory == policy.directory), None)
        if known is not None and known.policy.namespace != policy.namespace:
            raise PolicyRefused(
                f"it gives another namespace, {policy.namespace}, to the directory"
                f" {known.policy.namespace}",
                "ask the directory's operator for its policy file",
            )
        if known is None and any(e.policy.namespace == policy.namespace for e in self.all()):
            raise PolicyRefused(
                f"another name directory, with another key, is followed as {policy.namespace}",
                "ask which of the two is right; to follow the new one, rm the policy of the other",
            )
        if known is None and len(self._others) >= DIRECTORIES_MAX:
            raise PolicyRefused(
                f"{DIRECTORIES_MAX} name directories are followed beside your own",
                "rm the policy of one in directories/",
            )

    def write(self, writer: Writer, policy: Policy) -> None:
        """Keep the policy of a directory that is not one's own; ``took`` when that is on the
        disk."""
        writer.put(Table.META, Meta.POLICY + policy.directory, policy.encode().encode())

    def forget(self, writer: Writer, directory: bytes, *, log: bool) -> None:
        """Follow a directory no more, and with ``log`` forget how far it was followed;
        ``forgot`` when that is on the disk."""
        writer.delete(Table.META, Meta.POLICY + directory)
        if log:
            writer.delete(Table.META, Meta.LOG + directory)

    def took(self, policy: Policy) -> None:
        """Go by this policy from now on."""
        known = self.own if policy.directory == self.directories.own else None
        known = known or self._others.get(policy.directory)
        if known is not None:
            known.policy = policy
        else:
            self._others[policy.directory] = self._lookups(policy)
        self._tell()

    def forgot(self, directory: bytes) -> None:
        """Ask this directory nothing any more."""
        del self._others[directory]
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _lookups(self, policy: Policy) -> Lookups:
        own = self.own
        load, keep = self._kept(Meta.LOG + policy.directory)
        return Lookups(
            own.dialer,
            policy,
            load,
            keep,
            own.clock,
            own.random,
            f"the name directory {policy.namespace}",
        )

    def _kept(
        self, key: bytes
    ) -> tuple[Callable[[], bytes | None], Callable[[bytes], Awaitable[None]]]:
        store = self._store

        def load() -> bytes | None:
            with store.read() as reader:
                return reader.get(Table.META, key)

        async def keep(state: bytes) -> None:
            def change(writer: Writer) -> None:
                if writer.get(Table.META, policy_key) is not None:  # it was removed meanwhile
                    writer.put(Table.META, key, state)

            await store.commit(change)

        policy_key = Meta.POLICY + key.removeprefix(Meta.LOG)
        return load, keep
