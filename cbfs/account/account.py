"""An account directory: what is in it, how it is made, how it is opened.

root.key   the key by which the store opens, overwritten with every change
           (``cbfs.storage.root_key``)
lock       held while a program uses the account
store/     LMDB, every value sealed (``cbfs.storage.store``)
before/    both as they were, while the store is upgraded (``cbfs.account.formats``)
after/     both as they are to be, while a store of long ago is (``cbfs.account.brought``)
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cbfs.account.leaving import check_lives_here
from cbfs.account.passphrase import Guard
from cbfs.account.place import (
    AFTER,
    AFTER_NEW,
    ARRIVING,
    BEFORE,
    BEFORE_NEW,
    OWN_NAMES,
    check_account,
)
from cbfs.storage import root_key
from cbfs.storage.encoding import pack, unpack
from cbfs.storage.root_key import (
    NO_LOCK,
    Protection,
    ProtectionKind,
    RootError,
    RootFile,
    Unlock,
    WrongPassphrase,
    make_root_file,
    protections,
)
from cbfs.storage.salvage import Remains
from cbfs.storage.store import Meta, Store, StoreError, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.names.policy import parse_policy
from cbfs_common.person import Person
from cbfs_common.primitives import (
    KEM_SEED_SIZE,
    KEY_SIZE,
    KemKey,
    Random,
    dh_public,
    kem_encapsulate,
    kem_public,
    sign_public,
)
from cbfs_common.profile import Address, Profile, kem_id, parse_address
from cbfs_common.session.session import Party
from cbfs_host.complaints import hint_of
from cbfs_host.files import make_directory, take_lock

SYSTEM_RANDOM = Random(os.urandom, kem_encapsulate)
"""The real randomness; everything below the entry points is given it."""


FORMER_KEPT = 60 * 86_400
"""Seconds for which a former mailbox is still looked into: as long as a prekey taken there can be
used, and an envelope wait."""

FORMER_MAX = 4
"""Former mailboxes that are kept; with more, the oldest go."""


@dataclass(frozen=True, slots=True)
class Former:
    """A mailbox and keys of before, ``until`` when they count (seconds since 1970): others go on
    writing there until they know better. Keys as in Account; ``signing`` is public."""

    transport: bytes
    auth: bytes
    kem: bytes
    signing: bytes
    server: Address
    until: int

    def party(self, person: Person) -> Party:
        """Oneself in a session, under these keys."""
        user_id, auth, kem = dh_public(self.transport), dh_public(self.auth), KemKey(self.kem)
        profile = Profile(user_id, self.signing, auth, kem_id(kem.public()), self.server)
        return Party(profile.identity(person), self.auth, auth, kem)


@dataclass(frozen=True, slots=True)
class Account:
    """One's own name, secret keys (32 bytes each, ``kem`` 64), home server and name policy (its
    text).

    ``transport`` and ``auth`` are X25519 secrets, ``signing`` and ``owner`` Ed25519 seeds, ``kem``
    is one of ML-KEM-768; the owner key signs operations on the name and nothing else. It may be
    kept elsewhere: then ``owner`` is empty, and ``agent`` (an Ed25519 seed, else empty) renews the
    name in its place, or freezes it. ``former``: newest first."""

    name: str
    transport: bytes
    signing: bytes
    auth: bytes
    kem: bytes
    owner: bytes
    server: Address
    policy: str
    former: tuple[Former, ...] = ()
    agent: bytes = b""

    @property
    def user_id(self) -> bytes:
        """By which the home server knows the account: the public half (32) of ``transport``."""
        return dh_public(self.transport)

    @property
    def agent_key(self) -> bytes:
        """The public half of ``agent`` (32), or empty."""
        return sign_public(self.agent) if self.agent else b""

    @property
    def renewing(self) -> bytes:
        """The seed that renews the name: the agent's, or the owner's."""
        return self.agent or self.owner

    @property
    def profile(self) -> Profile:
        """The public halves of the keys, and the home server: what the directory has."""
        return Profile(
            dh_public(self.transport),
            sign_public(self.signing),
            dh_public(self.auth),
            kem_id(self.kem_public),
            self.server,
        )

    @property
    def kem_public(self) -> bytes:
        """The public half (1184) of ``kem``, which the home server gives away with prekeys."""
        return kem_public(self.kem)

    @property
    def person(self) -> Person:
        """Who one is: the name, and the directory that has it."""
        return Person(parse_policy(self.policy).directory, self.name)

    @property
    def party(self) -> Party:
        """Oneself in a session, under the keys of now."""
        identity = self.profile.identity(self.person)
        return Party(identity, self.auth, dh_public(self.auth), KemKey(self.kem))

    @property
    def former_parties(self) -> tuple[Party, ...]:
        """Oneself in sessions, under the keys of before."""
        return tuple(former.party(self.person) for former in self.former)

    def moved(self, now: int) -> tuple[Former, ...]:
        """What is to be the ``former`` of an account that takes the place of this one at ``now``
        (seconds)."""
        signing, until = sign_public(self.signing), now + FORMER_KEPT
        here = Former(self.transport, self.auth, self.kem, signing, self.server, until)
        return (here, *(each for each in self.former if each.until > now))[:FORMER_MAX]

    def encode(self) -> bytes:
        """This account as a record of ``Table.META``. Holds secrets."""
        former = [
            [f.transport, f.auth, f.kem, f.signing, f.server.url(), f.until] for f in self.former
        ]
        return pack(
            self.name,
            self.transport,
            self.signing,
            self.auth,
            self.kem,
            self.owner,
            self.server.url(),
            self.policy,
            former,
            self.agent,
        )


def make_account(
    name: str, server: Address, policy: str, random: Random, *, owner_apart: bool = False
) -> Account:
    """A new account with fresh keys; with that of an agent in the place of the owner's when this is
    kept apart."""
    transport, signing, auth, owner = (random.token(KEY_SIZE) for _ in range(4))
    kem = random.token(KEM_SEED_SIZE)
    made = Account(name, transport, signing, auth, kem, owner, server, policy)
    return replace(made, owner=b"", agent=owner) if owner_apart else made


def load_account(store: Store) -> Account | None:
    """The account in this store, or None when none was made yet."""
    with store.read() as reader:
        data = reader.get(Table.META, Meta.ACCOUNT)
    return None if data is None else _decode(data)


def load_next(store: Store) -> Account | None:
    """The account that a change under way is to make of this one."""
    with store.read() as reader:
        data = reader.get(Table.META, Meta.ACCOUNT_NEXT)
    return None if data is None else _decode(data)


def put_next(writer: Writer, account: Account) -> None:
    """Keep what a change is to make of the account, before anybody else hears of its keys."""
    writer.put(Table.META, Meta.ACCOUNT_NEXT, account.encode())


def put_account(writer: Writer, account: Account) -> None:
    """Make this the account from now on; a change that led to it has ended."""
    writer.put(Table.META, Meta.ACCOUNT, account.encode())
    writer.delete(Table.META, Meta.ACCOUNT_NEXT)


def put_policy(writer: Writer, policy: str) -> None:
    """Go by another policy (its text) of the same name directory from now on."""
    for key in Meta.ACCOUNT, Meta.ACCOUNT_NEXT:
        data = writer.get(Table.META, key)
        if data is not None:
            writer.put(Table.META, key, replace(_decode(data), policy=policy).encode())


def bring_back(writer: Writer, now: int) -> None:
    """Look into a former mailbox that a wrong clock has left for no longer than if it was left at
    ``now`` (seconds since 1970)."""
    for key in Meta.ACCOUNT, Meta.ACCOUNT_NEXT:
        data = writer.get(Table.META, key)
        if data is not None:
            known = _decode(data)
            latest = now + FORMER_KEPT
            former = tuple(replace(each, until=min(each.until, latest)) for each in known.former)
            if former != known.former:
                writer.put(Table.META, key, replace(known, former=former).encode())


def _decode(data: bytes) -> Account:
    name, transport, signing, auth, kem, owner, url, policy, earlier, agent = unpack(
        data, str, bytes, bytes, bytes, bytes, bytes, str, str, list, bytes
    )
    return Account(
        name,
        transport,
        signing,
        auth,
        kem,
        owner,
        parse_address(url),
        policy,
        tuple(_decode_former(*fields) for fields in earlier),
        agent,
    )


def _decode_former(
    transport: bytes, auth: bytes, kem: bytes, signing: bytes, url: str, until: int
) -> Former:
    return Former(transport, auth, kem, signing, parse_address(url), until)


def put_own_server(writer: Writer, address: Address) -> None:
    """Note that the home server is one that runs with the account, at this address."""
    writer.put(Table.META, Meta.OWN_SERVER, address.url().encode())


def load_own_server(store: Store) -> Address | None:
    """The address of the server that runs with the account; None when none does."""
    with store.read() as reader:
        data = reader.get(Table.META, Meta.OWN_SERVER)
    return None if data is None else parse_address(data.decode())


def no_lock(protection: Protection) -> bytes:
    """The lock (32 bytes) of an account that nothing protects. Raises CbfsError for one that
    something does."""
    if protection.kind is not ProtectionKind.NOTHING:
        raise CbfsError("the account is protected by a passphrase", "give the passphrase")
    return NO_LOCK


def protection_of(directory: Path) -> ProtectionKind | None:
    """What protects the account there, or None when there is none."""
    return next((p.kind for p in protections(directory / "root.key")), None)


@contextmanager
def opened_store(
    directory: Path,
    random: Random,
    unlock: Unlock = no_lock,
    *,
    create: Callable[[], Guard] | None = None,
    believes: bool = False,
    has_moved: bool = False,
) -> Iterator[Store]:
    """The store of an account directory, locked against every other program. ``create`` gives
    what protects one that has to be made. ``believes`` is as in ``Store``. One that has moved to
    another computer is refused, unless ``has_moved`` says that it may have. Raises CbfsError."""
    check_account(directory)
    if create is not None:
        _make_directory(directory)
    _check_root(
        directory,
        f"make one: cbfs init NAME --account {directory} --server URL --names POLICYFILE",
        may_begin=create is not None,
    )
    with locked(directory):
        store = _open_store(directory, random, unlock, create, believes=believes)
        try:
            if not has_moved:
                check_lives_here(store)
            yield store
        finally:
            store.close()


def _check_root(directory: Path, hint: str, *, may_begin: bool) -> None:
    """Refuse a directory without a root file, unless a new account ``may_begin`` there: never
    beside a store, which a new root file would not open. ``hint``: where there is no account."""
    if (directory / "root.key").exists():
        return
    if (directory / ARRIVING).exists():
        raise CbfsError(
            f"the account in {directory} has not come from the other computer yet",
            "finish it by the same two commands: cbfs move there, and here as well",
        )
    if (directory / "store" / "data.mdb").exists():
        raise CbfsError(
            f"the store in {directory} has no root file (root.key), and cannot be opened",
            "put back both from the same copy, or restore an export into a directory of its own:"
            " cbfs init --restore FILE",
        )
    if not may_begin:
        raise CbfsError(f"there is no account in {directory}", hint)


@contextmanager
def reading_store(directory: Path, random: Random, unlock: Unlock = no_lock) -> Iterator[Store]:
    """The store of an account directory to read, be it mounted or not. Raises CbfsError."""
    check_account(directory)
    _check_root(directory, "name one", may_begin=False)
    root_file = RootFile(directory / "root.key", unlock, random.token, read_only=True)
    try:
        store = Store(directory / "store", root_file, random, read_only=True)
    except BaseException:
        root_file.close()
        raise
    try:
        yield store
    finally:
        store.close()


@contextmanager
def salvaging(
    directory: Path, random: Random, unlock: Unlock = no_lock
) -> Iterator[Store | Remains]:
    """What is intact in an account directory, mounted or not, for an export. Raises CbfsError."""
    check_account(directory)
    with ExitStack() as stack:
        try:
            source: Store | Remains = stack.enter_context(reading_store(directory, random, unlock))
            with source.salvage() as salvage:
                list(salvage.records(Table.META))  # so that the root file is opened as well
        except WrongPassphrase:
            raise
        except (StoreError, RootError):
            root_file = RootFile(directory / "root.key", unlock, random.token, read_only=True)
            stack.callback(root_file.close)
            source = Remains(directory / "store", root_file)
            stack.callback(source.close)
        yield source


def _make_directory(directory: Path) -> None:
    try:
        make_directory(directory)
        others = {each.name for each in directory.iterdir()} - OWN_NAMES - {"lost+found"}
        if others and not (directory / "root.key").exists():
            raise CbfsError(
                f"{directory} holds other files",
                "an account has a directory of its own: choose one with --account",
            )
        directory.chmod(0o700)
    except OSError as error:
        raise CbfsError(
            f"cannot make {directory}: {error.strerror}", "choose another with --account"
        ) from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep every other program out of an account directory that there is. Raises CbfsError."""
    try:
        lock, ours = take_lock(directory)
    except OSError as error:
        raise CbfsError(
            f"cannot use {directory}: {error.strerror}", "is it yours, and writable?"
        ) from error
    if not ours:
        user = _user(lock)
        os.close(lock)
        raise CbfsError(
            f"the account {directory} is in use" + (f" by process {user}" if user else ""),
            "unmount it: fusermount3 -u MOUNTPOINT; if you did, a program or another mount"
            " namespace still has it" + (f"; kill {user} ends that" if user else ""),
        )
    try:
        with suppress(OSError):  # the disk may be full: then nobody is told
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(lock)


def _user(lock: int) -> int:
    """The process that holds the lock, 0 when it cannot be told."""
    try:
        pid = int(os.pread(lock, 20, 0))
        os.kill(pid, 0)
    except (OSError, ValueError, OverflowError):
        return 0
    return pid if pid > 1 else 0


def _open_store(
    directory: Path,
    random: Random,
    unlock: Unlock,
    create: Callable[[], Guard] | None,
    *,
    believes: bool,
) -> Store:
    path = directory / "root.key"
    guard = None
    try:
        if not path.exists() and create is not None:
            guard = create()
            make_root_file(path, guard.protection, guard.lock, random.token)
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {error.strerror}",
            hint_of(error, "is it yours, and the disk writable?"),
        ) from error
    made = guard

    def known(protection: Protection) -> bytes:
        return made.lock if made and made.protection == protection else unlock(protection)

    def open_store(upgrade: Callable[[Writer, int], None] | None = None) -> Store:
        root_file = RootFile(path, known, random.token, upgrades=upgrade is not None)
        try:
            place = directory / "store"
            return Store(place, root_file, random, believes=believes, upgrade=upgrade)
        except BaseException:
            root_file.close()
            raise

    if _is_upgraded(directory):
        return open_store()
    from cbfs.account.brought import bring_over  # noqa: PLC0415 - seldom needed
    from cbfs.account.formats import open_upgraded  # noqa: PLC0415 - likewise

    bring_over(directory, known, random)
    return open_upgraded(directory, open_store)


def _is_upgraded(directory: Path) -> bool:
    """Whether the account is of the newest format, and no upgrade has left anything. One whose root
    file cannot be read needs no upgrade either."""
    try:
        numbers = root_key.format_numbers((directory / "root.key").read_bytes())
        left = any((directory / each).exists() for each in (BEFORE, BEFORE_NEW, AFTER, AFTER_NEW))
    except OSError:
        return True
    return numbers <= {root_key.FORMAT} and not left
