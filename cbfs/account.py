"""An account directory: what is in it, how it is made, how it is opened.

root.key   the key by which the store opens, overwritten with every change (``cbfs.rootfile``)
lock       held while a program uses the account
store/     LMDB, every value sealed (``cbfs.store``)
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbfs.packing import pack, unpack
from cbfs.rootfile import NO_LOCK, Kind, Protection, RootFile, Unlock, make_root_file
from cbfs.store import Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import KEY_SIZE, Random, dh_public, kem_encapsulate, sign_public
from cbfs_common.profile import Address, Profile, parse_address
from cbfs_common.session import Party

SYSTEM_RANDOM = Random(os.urandom, kem_encapsulate)
"""The real randomness; everything below the entry points is given it."""

_ACCOUNT = b"account"


@dataclass(frozen=True, slots=True)
class Account:
    """One's own name, secret keys (32 bytes each), home server and name policy (its text).

    ``transport`` and ``auth`` are X25519 secrets, ``signing`` and ``owner`` Ed25519 seeds; the
    owner key signs operations on the name and nothing else."""

    name: str
    transport: bytes
    signing: bytes
    auth: bytes
    owner: bytes
    server: Address
    policy: str

    @property
    def profile(self) -> Profile:
        """The public halves."""
        return Profile(
            dh_public(self.transport), sign_public(self.signing), dh_public(self.auth), self.server
        )

    @property
    def party(self) -> Party:
        """Oneself in a session."""
        return Party(self.profile.identity(self.name), self.auth, dh_public(self.auth))


def make_account(name: str, server: Address, policy: str, random: Random) -> Account:
    """Fresh keys."""
    transport, signing, auth, owner = (random.token(KEY_SIZE) for _ in range(4))
    return Account(name, transport, signing, auth, owner, server, policy)


def load_account(store: Store) -> Account | None:
    """The account in this store, or None when none was made yet."""
    with store.read() as reader:
        data = reader.get(Table.META, _ACCOUNT)
    if data is None:
        return None
    name, transport, signing, auth, owner, url, policy = unpack(
        data, str, bytes, bytes, bytes, bytes, str, str
    )
    return Account(name, transport, signing, auth, owner, parse_address(url), policy)


def save_account(store: Store, account: Account) -> None:
    """Before the store runs. On the disk on return."""
    data = pack(
        account.name,
        account.transport,
        account.signing,
        account.auth,
        account.owner,
        account.server.url(),
        account.policy,
    )
    store.write(lambda writer: writer.put(Table.META, _ACCOUNT, data))


def default_account() -> Path:
    """$XDG_DATA_HOME/cbfs, or ~/.local/share/cbfs."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "cbfs"


def no_lock(protection: Protection) -> bytes:
    """The lock of an account that nothing protects. Raises CbfsError for another."""
    if protection.kind is not Kind.NOTHING:
        raise CbfsError("the account is protected by a passphrase", "it has to be given")
    return NO_LOCK


@contextmanager
def opened_store(
    directory: Path, random: Random, unlock: Unlock = no_lock, *, create: bool = False
) -> Iterator[Store]:
    """The store of an account directory, locked against every other program. Raises CbfsError."""
    if create:
        _make_directory(directory)
    elif not (directory / "root.key").exists():
        raise CbfsError(
            f"there is no account in {directory}",
            f"make one: cbfs init NAME --account {directory} --server URL --names POLICYFILE",
        )
    with _locked(directory):
        store = _open_store(directory, random, unlock)
        try:
            yield store
        finally:
            store.close()


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise CbfsError(
            f"cannot make {directory}: {error.strerror}", "choose another with --account"
        ) from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CbfsError(
            f"cannot use {directory}: {error.strerror}", "is it yours, and writable?"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise CbfsError(
            f"the account {directory} is in use", "unmount it first: fusermount3 -u MOUNTPOINT"
        ) from error
    try:
        yield
    finally:
        os.close(lock)


def _open_store(directory: Path, random: Random, unlock: Unlock) -> Store:
    path = directory / "root.key"
    try:
        if not path.exists():
            make_root_file(path, Protection(), NO_LOCK, random.token)
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {error.strerror}", "is it yours, and the disk writable?"
        ) from error
    root_file = RootFile(path, unlock, random.token)
    try:
        return Store(directory / "store", root_file, random)
    except BaseException:
        root_file.close()
        raise
