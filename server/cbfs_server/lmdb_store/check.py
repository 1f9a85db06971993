"""Looking for damage in the whole store of a message server, while it runs."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from cbfs_host.complaints import StoreError
from cbfs_server.limits import CHECK_BATCH
from cbfs_server.lmdb_store.mailboxes import MailboxReader
from cbfs_server.store.blobs import Holding
from cbfs_server.store.interface import CheckedMailboxes


def check(
    records: int,
    damaged: int,
    read: Callable[[], AbstractContextManager[MailboxReader]],
    rest: Callable[[], None],
) -> CheckedMailboxes:
    """Every mailbox as it is at one time, after so many ``records`` were read, some of them
    ``damaged``. ``rest`` is called again and again. Blocks. Raises StoreError for what cannot be
    read at all."""
    accounts = incomplete = 0
    start: bytes | None = b""
    while start is not None:
        with read() as reader:
            users = reader.users(start, CHECK_BATCH)
            for user in users:
                accounts += 1
                whole = _is_whole(reader, user, rest) and _has_all_blobs(reader, user, rest)
                incomplete += not whole
        start = users[-1] + b"\0" if len(users) == CHECK_BATCH else None
    return CheckedMailboxes(records, damaged, accounts, incomplete)


def _is_whole(reader: MailboxReader, user: bytes, rest: Callable[[], None]) -> bool:
    found, serial = 0, 0
    try:
        account = reader.account(user)
        for entry in reader.order(user, 0):
            rest()
            found += 1
            if entry.serial <= serial or reader.serial(user, entry.id) != entry.serial:
                return False
            serial = entry.serial
    except StoreError:
        return False
    return account is not None and account.stored == found and serial < account.next_serial


def _has_all_blobs(reader: MailboxReader, user: bytes, rest: Callable[[], None]) -> bool:
    """Whether an account has the blobs that it is said to have, each up to its last chunk."""
    blobs, found = reader.blobs, Holding()
    try:
        for id in blobs.owned(user):
            rest()
            blob = blobs.blob(id)
            if blob is None or blob.user != user or blobs.chunk(id, blob.put) is not None:
                return False
            if blob.put and blobs.chunk(id, blob.put - 1) is None:
                return False
            found = Holding(found.blobs + 1, found.data + blob.data, found.put + blob.put)
        return found == blobs.holding(user)
    except StoreError:
        return False
