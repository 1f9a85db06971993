"""Opening the database, before the server runs: whether it may be used, its tables, and what is in
them that the server needs to begin. Blocks."""

import logging
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from cbfs_common.errors import DecodeError
from cbfs_host.calendar import ClockMark, decode_mark
from cbfs_host.complaints import HostError, StoreError
from cbfs_server.limits import EXPIRY_BATCH, OPENING_TIMEOUT
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.schema import SCHEMA, SERVER_VERSION_LEAST, UPGRADES, VERSION
from cbfs_server.postgres_store.sweeping import LOCK
from cbfs_server.postgres_store.wire import in_full, reason
from cbfs_server.store.interface import StoreFigures

_log = logging.getLogger(__name__)

_TELLS: Final[dict[str, set[str | None]]] = {
    "log_statement": {"none"},
    "log_min_duration_statement": {"-1"},
    "log_min_duration_sample": {"-1"},
    "log_transaction_sample_rate": {"0"},
    "log_duration": {"off"},
    "log_parameter_max_length_on_error": {"0"},
    "auto_explain.log_min_duration": {"-1", None},
    "pgaudit.log": {"none", "", None},
    "track_commit_timestamp": {"off"},
    "archive_mode": {"off"},
}
"""What a setting may be, so that the database keeps nothing of who has asked what, and when."""

_SAFE: Final[dict[str, set[str]]] = {
    "fsync": {"on"},
    "full_page_writes": {"on"},
    "synchronous_commit": {"on", "remote_apply"},
}
"""What a setting must be, so that what is committed is on a disk."""


@dataclass(frozen=True, slots=True)
class OpenedDatabase:
    """What is in the database."""

    noted: ClockMark | None
    suspended: frozenset[bytes]
    figures: StoreFigures


def open_database(address: str, key: bytes, *, tells: bool, restored: bool) -> OpenedDatabase:
    """Check the database, and make its tables when there are none. ``key``: the public key (32) of
    the server that it belongs to. ``tells``: the operator's word that it may log what is asked.
    ``restored``: and that it is an old copy. Raises HostError, StoreError."""
    try:
        place = in_full(address, OPENING_TIMEOUT)
        with psycopg.connect(place, autocommit=True) as connection:
            _check(connection, tells=tells)
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK + 1,))
                _make_tables(connection, key)
            if restored:
                _forget_given_out(connection)
            return _found(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise HostError(
            f"the database refuses: {reason(error)}",
            "let its user make a schema: GRANT CREATE ON DATABASE",
        ) from error
    except psycopg.Error as error:
        raise HostError(
            f"the database cannot be opened: {reason(error)}",
            "check --store, and that the database takes writes",
        ) from error


def _setting(connection: "psycopg.Connection[Any]", name: str) -> str | None:
    found = connection.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
    return None if found is None or found[0] is None else str(found[0])


def _check(connection: "psycopg.Connection[Any]", *, tells: bool) -> None:
    if connection.info.server_version < SERVER_VERSION_LEAST:
        raise HostError(
            f"the database is PostgreSQL {connection.info.server_version // 10_000}",
            f"{SERVER_VERSION_LEAST // 10_000} or newer is needed",
        )
    for name, fine in _SAFE.items():
        if (now := _setting(connection, name)) not in fine:
            raise HostError(f"the database has {name} = {now}", f"set it to {min(fine)}")
    wrong = {n: now for n, fine in _TELLS.items() if (now := _setting(connection, n)) not in fine}
    if wrong and not tells:
        name, now = next(iter(wrong.items()))
        raise HostError(
            f"the database keeps what people do, and when: {name} = {now}",
            "turn that off (see docs/operating.rst), or say --store-logs",
        )
    for name, now in wrong.items():
        _log.warning("the database keeps what people do, and when: %s = %s", name, now)
    if not _setting(connection, "synchronous_standby_names"):
        _log.warning("the database has no synchronous standby: what is stored is on one machine")


def _make_tables(connection: "psycopg.Connection[Any]", key: bytes) -> None:
    made = connection.execute("SELECT to_regclass('cbfs.server') IS NOT NULL").fetchone()
    if made is None or not made[0]:
        connection.execute(SCHEMA.encode())
        connection.execute(
            "INSERT INTO cbfs.server VALUES (true, %s, %s, 0, 0, 0, 0)", (VERSION, key)
        )
        return
    found = connection.execute("SELECT version, key FROM cbfs.server").fetchone()
    if found is None:
        raise StoreError(
            "the database has no row that says whose it is", "restore it from a backup"
        )
    if not min(UPGRADES) <= found[0] <= VERSION:
        raise StoreError(
            f"the database has tables of version {found[0]}, and this version of cbfs-server knows"
            f" those up to {VERSION}",
            "start the cbfs-server that it was used with last, or a newer one",
        )
    if bytes(found[1]) != key:
        raise HostError(
            "the database is that of another server",
            "its servers have one key: copy the file key into each --data",
        )
    for version in range(found[0], VERSION):
        connection.execute(UPGRADES[version].encode())
        connection.execute("UPDATE cbfs.server SET version = %s", (version + 1,))


def _forget_given_out(connection: "psycopg.Connection[Any]") -> None:
    """One-time prekeys, which may have been given out since. In batches, by the accounts."""
    start, forgotten = b"", 0
    while True:
        found = connection.execute(
            "SELECT user_id FROM cbfs.accounts WHERE user_id > %s ORDER BY user_id LIMIT %s",
            (start, EXPIRY_BATCH),
        ).fetchall()
        if not found:
            break
        start = bytes(found[-1][0])
        gone = connection.execute(
            "DELETE FROM cbfs.prekeys WHERE kind = 1 AND user_id = ANY (%s)",
            ([bytes(user) for (user,) in found],),
        )
        forgotten += gone.rowcount
    _log.warning(
        "the store is a copy: %d one-time prekeys are forgotten, as they may have been given"
        " out since; until their owners come, people write to them by last-resort prekeys",
        forgotten,
    )


def _found(connection: "psycopg.Connection[Any]") -> OpenedDatabase:
    clock = connection.execute("SELECT mark FROM cbfs.clock").fetchone()
    suspended = connection.execute("SELECT user_id FROM cbfs.suspended").fetchall()
    sizes = connection.execute(s.SIZES.text).fetchone()
    try:
        noted = None if clock is None else decode_mark(bytes(clock[0]))
    except DecodeError as error:
        raise StoreError("a record of the store is damaged", "restore a backup") from error
    accounts, envelopes, blobs, chunks, used = (int(each) for each in sizes or (0,) * 5)
    return OpenedDatabase(
        noted,
        frozenset(bytes(user) for (user,) in suspended),
        StoreFigures(accounts, envelopes, blobs, chunks, used, None),
    )
