"""Every statement that is sent to the database once the schema is there.

Those of ONE_USER touch rows of one user, by a key that begins with the user, which is always
``$1``: so tables may be distributed by user, and none becomes slower by how many users there are.
Those of ONE_BLOB touch rows of one blob, by a key that begins with its id, which is ``$1``, or of
its owner. Those of WHOLE_STORE are of what all share, and few. Values go as parameters, never as
text. Of prekeys, the kind 1 is for one-time ones, and 2 for those of the last resort.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Value = bytes | int | bool | float | Sequence[bytes]
Row = tuple[bytes | None, ...]
Rows = Sequence[Row]

_INT: Final = struct.Struct(">q")
_FLOAT: Final = struct.Struct(">d")
_ARRAY: Final = struct.Struct(">iiIii")
_SIZE: Final = struct.Struct(">i")


_BYTES_OID: Final = 17
_OIDS: Final = {"bytes": _BYTES_OID, "int": 20, "bool": 16, "float": 701, "list": 1001}


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement under the ``name`` by which it is prepared. ``types`` of its parameters: bytes,
    int (64 bits), bool, float and list (of bytes)."""

    name: bytes
    types: tuple[str, ...]
    text: bytes

    @property
    def oids(self) -> tuple[int, ...]:
        """The types as the database numbers them."""
        return tuple(_OIDS[each] for each in self.types)


@dataclass(frozen=True, slots=True)
class Call:
    """A statement with its parameters, as they are sent."""

    statement: Statement
    values: tuple[bytes, ...]


ONE_USER: Final[dict[str, Statement]] = {}
ONE_BLOB: Final[dict[str, Statement]] = {}
WHOLE_STORE: Final[dict[str, Statement]] = {}


def _prepared(known: dict[str, Statement], name: str, types: str, text: str) -> Statement:
    made = Statement(name.encode(), tuple(types.split()), " ".join(text.split()).encode())
    known[name] = made
    return made


def _one_user(name: str, types: str, text: str) -> Statement:
    return _prepared(ONE_USER, name, f"bytes {types}", text)


def _one_blob(name: str, types: str, text: str) -> Statement:
    return _prepared(ONE_BLOB, name, f"bytes {types}", text)


def _whole_store(name: str, types: str, text: str) -> Statement:
    return _prepared(WHOLE_STORE, name, types, text)


def call(statement: Statement, *values: Value) -> Call:
    """The statement with these parameters."""
    return Call(statement, tuple(map(_encoded, values)))


def _encoded(value: Value) -> bytes:
    match value:
        case bytes():
            return value
        case bool():
            return b"\x01" if value else b"\0"
        case int():
            return _INT.pack(value)
        case float():
            return _FLOAT.pack(value)
    if not value:
        return _SIZE.pack(0) + _SIZE.pack(0) + struct.pack(">I", _BYTES_OID)
    parts = [_ARRAY.pack(1, 0, _BYTES_OID, len(value), 1)]
    for item in value:
        parts += _SIZE.pack(len(item)), item
    return b"".join(parts)


def int_of(value: bytes | None) -> int:
    """An integer of a result; 0 for NULL."""
    return 0 if value is None else int.from_bytes(value, "big", signed=True)


def float_of(value: bytes | None) -> float:
    """A floating-point number of a result; 0 for NULL."""
    found: float = 0.0 if value is None else _FLOAT.unpack(value)[0]
    return found


def bytes_of(value: bytes | None) -> bytes:
    """Bytes of a result; empty for NULL."""
    return value or b""


def bool_of(value: bytes | None) -> bool:
    """A truth value of a result; False for NULL."""
    return value == b"\x01"


# Transactions

BEGIN: Final = _whole_store("begin", "", "BEGIN")
COMMIT: Final = _whole_store("commit", "", "COMMIT")
ROLLBACK: Final = _whole_store("rollback", "", "ROLLBACK")

LOCK: Final = _one_user(
    "lock", "", "SELECT true FROM accounts WHERE user_id = $1 FOR NO KEY UPDATE"
)
"""Changes of one account come after each other. That a row is locked is written ahead as well: so
a transaction that finds done what was asked waits for the standbys like the one that did it."""

LOCK_SERVER: Final = _whole_store("lock_server", "", "SELECT true FROM server FOR NO KEY UPDATE")
"""Before all locks of accounts, by those that make accounts, end them, or suspend users."""

# Mail

ADD_ENVELOPE: Final = _one_user(
    "add_envelope",
    "bytes bytes int int",
    """WITH known AS (
        SELECT stored, EXISTS (SELECT FROM mail WHERE user_id = $1 AND id = $2) AS there
        FROM accounts WHERE user_id = $1
    ), counted AS (
        UPDATE accounts SET next_serial = next_serial + 1, stored = stored + 1
        WHERE user_id = $1
        AND EXISTS (SELECT FROM known WHERE NOT known.there AND known.stored < $5)
        RETURNING next_serial - 1 AS serial
    ), added AS (
        INSERT INTO mail (user_id, serial, day, id, envelope)
        SELECT $1, serial, $4, $2, $3 FROM counted
    ) SELECT there OR stored < $5 FROM known""",
)

REMOVE_ENVELOPES: Final = _one_user(
    "remove_envelopes",
    "list",
    """WITH gone AS (
        DELETE FROM mail WHERE user_id = $1 AND id = ANY ($2) RETURNING true
    ) UPDATE accounts SET stored = stored - (SELECT count(*) FROM gone)
    WHERE user_id = $1 RETURNING true""",
)

LIST_FIRST: Final = _one_user(
    "list_first", "int", "SELECT id FROM mail WHERE user_id = $1 ORDER BY serial LIMIT $2"
)

SERIAL: Final = _one_user(
    "serial", "bytes", "SELECT serial FROM mail WHERE user_id = $1 AND id = $2"
)

LIST_BEHIND: Final = _one_user(
    "list_behind",
    "bytes int",
    """SELECT id FROM mail WHERE user_id = $1
    AND serial > (SELECT serial FROM mail WHERE user_id = $1 AND id = $2)
    ORDER BY serial LIMIT $3""",
)

READ_ENVELOPE: Final = _one_user(
    "read_envelope",
    "bytes",
    """SELECT (SELECT envelope FROM mail WHERE user_id = $1 AND id = $2)
    FROM accounts WHERE user_id = $1""",
)

NEXT_MAIL: Final = _one_user(
    "next_mail",
    "int int",
    """SELECT serial, id, envelope FROM mail
    WHERE user_id = $1 AND serial > $2 ORDER BY serial LIMIT $3""",
)

PRESENT: Final = _one_user(
    "present", "list", "SELECT id FROM mail WHERE user_id = $1 AND id = ANY ($2)"
)

# Prekeys

GIVE_PREKEY: Final = _one_user(
    "give_prekey",
    "bytes int int",
    """WITH kem AS (
        SELECT kem FROM kems WHERE user_id = $1
    ), fresh AS (
        SELECT id FROM prekeys WHERE user_id = $1 AND kind = 1
        AND expires > $2 ORDER BY id LIMIT 1
    ), minute AS (
        SELECT extract(epoch FROM clock_timestamp())::bigint / $3 * $3 AS now
    ), counted AS (
        UPDATE accounts SET full_at = greatest(full_at, (SELECT now FROM minute)) + $3
        WHERE user_id = $1
        AND full_at <= (SELECT now FROM minute) + $4
        AND EXISTS (SELECT FROM fresh) AND EXISTS (SELECT FROM kem)
        RETURNING true
    ), gone AS (
        DELETE FROM prekeys WHERE user_id = $1 AND kind = 1
        AND id = (SELECT id FROM fresh) AND EXISTS (SELECT FROM counted)
        RETURNING record
    ) SELECT (SELECT kem FROM kem), coalesce((SELECT record FROM gone), (
        SELECT record FROM prekeys WHERE user_id = $1 AND kind = 2
        AND expires > $2 ORDER BY id LIMIT 1
    )) FROM accounts WHERE user_id = $1""",
)

PREKEYS: Final = _one_user(
    "prekeys", "", "SELECT kind, id, expires FROM prekeys WHERE user_id = $1"
)

REMOVE_PREKEYS: Final = _one_user(
    "remove_prekeys",
    "int list",
    "DELETE FROM prekeys WHERE user_id = $1 AND kind = $2 AND id = ANY ($3)",
)

ADD_PREKEY: Final = _one_user(
    "add_prekey",
    "int bytes bytes bytes",
    """INSERT INTO prekeys (user_id, kind, id, expires, record) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (user_id, kind, id)
    DO UPDATE SET expires = excluded.expires, record = excluded.record""",
)

PUT_KEM: Final = _one_user(
    "put_kem",
    "bytes",
    """INSERT INTO kems (user_id, kem) VALUES ($1, $2)
    ON CONFLICT (user_id) DO UPDATE SET kem = excluded.kem""",
)

COUNT_PREKEYS: Final = _one_user(
    "count_prekeys",
    "bytes",
    """SELECT (
        SELECT count(*) FROM prekeys WHERE user_id = $1
        AND kind = 1 AND expires > $2
    ), (
        SELECT max(encode(expires, 'hex')) FROM prekeys WHERE user_id = $1
        AND kind = 2 AND expires > $2
    ) FROM accounts WHERE user_id = $1""",
)
"""No maximum of bytes before PostgreSQL 18; as digits they have the same order."""

# Accounts

ACCOUNT: Final = _one_user(
    "account", "", "SELECT stored, visit, fetched FROM accounts WHERE user_id = $1"
)

MAKE_ACCOUNT: Final = _one_user(
    "make_account",
    "int",
    """INSERT INTO accounts (user_id, next_serial, stored, visit, fetched, full_at)
    VALUES ($1, 1, 0, $2, false, 0)""",
)

SPEND_PROOF: Final = _one_user(
    "spend_proof",
    "bytes int",
    """INSERT INTO proofs (user_id, number, of_window) VALUES ($1, $2, $3)
    ON CONFLICT (user_id, number) DO NOTHING RETURNING true""",
)

PROOF: Final = _one_user(
    "proof", "bytes", "SELECT true FROM proofs WHERE user_id = $1 AND number = $2"
)

REMOVE_OLDEST: Final = _one_user(
    "remove_oldest",
    "int int",
    """WITH gone AS (
        DELETE FROM mail WHERE user_id = $1 AND day < $2 AND serial <= (
            SELECT max(serial) FROM (
                SELECT serial FROM mail WHERE user_id = $1 ORDER BY serial LIMIT $3
            ) AS oldest
        ) RETURNING true
    ), counted AS (
        UPDATE accounts SET stored = stored - (SELECT count(*) FROM gone) WHERE user_id = $1
    ) SELECT count(*) FROM gone""",
)

OLDEST: Final = _one_user(
    "oldest", "", "SELECT day FROM mail WHERE user_id = $1 ORDER BY serial LIMIT 1"
)

END_ACCOUNT: Final = (
    _one_user(
        "end_blobs",
        "",
        """WITH gone AS (DELETE FROM blobs WHERE user_id = $1 RETURNING id, put)
        INSERT INTO erasing (user_id, id) SELECT $1, id FROM gone WHERE put > 0""",
    ),
    _one_user("end_prekeys", "", "DELETE FROM prekeys WHERE user_id = $1"),
    _one_user("end_kem", "", "DELETE FROM kems WHERE user_id = $1"),
    _one_user("end_mark", "", "DELETE FROM marks WHERE user_id = $1"),
    _one_user("end_account", "", "DELETE FROM accounts WHERE user_id = $1"),
)
"""After all mail has gone."""

CHANGE_MARK: Final = _one_user(
    "change_mark",
    "bytes bytes",
    """WITH known AS (
        SELECT (SELECT mark FROM marks WHERE user_id = $1) AS mark
        FROM accounts WHERE user_id = $1
    ), put AS (
        INSERT INTO marks (user_id, mark)
        SELECT $1, $3 FROM known WHERE coalesce(known.mark, ''::bytea) = $2
        ON CONFLICT (user_id) DO UPDATE SET mark = excluded.mark
    ) SELECT mark FROM known""",
)

NOTE_VISIT: Final = _one_user(
    "note_visit",
    "int bool",
    "UPDATE accounts SET visit = $2, fetched = fetched OR $3 WHERE user_id = $1",
)

# Blobs

BLOB: Final = _one_blob(
    "blob",
    "",
    """SELECT user_id, data, put, day, days, EXISTS (SELECT FROM erasing WHERE id = $1)
    FROM (SELECT) AS one LEFT JOIN blobs ON id = $1""",
)
"""One row, of NULLs where there is no such blob."""

CLAIM: Final = _one_blob(
    "claim",
    "",
    """SELECT pg_try_advisory_xact_lock(
        ('x' || encode(substr($1, 1, 4), 'hex'))::bit(32)::int4,
        ('x' || encode(substr($1, 5, 4), 'hex'))::bit(32)::int4
    )""",
)
"""Whether nobody else adds a blob of this id now. Rows of others' accounts are not locked when one
is added, and two who added two of the same ids would wait for each other."""

HOLDING: Final = _one_user(
    "holding",
    "",
    """SELECT count(*), coalesce(sum(data), 0)::bigint, coalesce(sum(put), 0)::bigint
    FROM blobs WHERE user_id = $1""",
)

ADD_BLOB: Final = _one_blob(
    "add_blob",
    "bytes int int int int",
    """INSERT INTO blobs (id, user_id, data, chunks, put, day, days)
    VALUES ($1, $2, $3, $4, 0, $5, $6)""",
)

ADD_CHUNK: Final = _one_blob(
    "add_chunk",
    "bytes int bytes int",
    """WITH known AS (
        SELECT put, chunks FROM blobs WHERE id = $1 AND user_id = $2
    ), counted AS (
        UPDATE blobs SET put = put + 1
        WHERE id = $1 AND user_id = $2 AND put = $3 AND put < chunks
        AND ($5 = 9223372036854775807 OR
            (SELECT coalesce(sum(put), 0) FROM blobs WHERE user_id = $2) < $5)
        RETURNING true
    ), added AS (
        INSERT INTO chunks (id, number, chunk) SELECT $1, $3, $4 FROM counted
    ) SELECT put, chunks, EXISTS (SELECT FROM counted),
    (SELECT chunk = $4 FROM chunks WHERE id = $1 AND number = $3),
    EXISTS (SELECT FROM accounts WHERE user_id = $2)
    FROM (SELECT) AS one LEFT JOIN known ON true""",
)
"""One row. The last parameter is how many chunks the account may have; the largest of all numbers:
any."""

READ_CHUNK: Final = _one_blob(
    "read_chunk",
    "int",
    """SELECT user_id, (SELECT chunk FROM chunks WHERE id = $1 AND number = $2)
    FROM blobs WHERE id = $1""",
)

END_BLOB: Final = _one_blob(
    "end_blob",
    "bytes",
    """WITH gone AS (
        DELETE FROM blobs WHERE id = $1 AND user_id = $2 RETURNING put
    ) INSERT INTO erasing (id, user_id) SELECT $1, $2 FROM gone WHERE put > 0""",
)

ERASE: Final = _one_blob(
    "erase",
    "int",
    """DELETE FROM chunks WHERE id = $1 AND number <= (SELECT max(number) FROM (
        SELECT number FROM chunks WHERE id = $1 ORDER BY number LIMIT $2
    ) AS batch)""",
)

ERASED: Final = _one_blob("erased", "", "DELETE FROM erasing WHERE id = $1")

# What all users share

COUNT_ACCOUNTS: Final = _whole_store(
    "count_accounts",
    "int int",
    "UPDATE server SET accounts = accounts + $1, suspensions = suspensions + $2",
)

FILL: Final = _whole_store(
    "fill",
    "float",
    """UPDATE server SET filled = $1,
    filled_at = extract(epoch FROM clock_timestamp())::float8""",
)

SERVER: Final = _whole_store(
    "server",
    "",
    """SELECT accounts, filled, extract(epoch FROM clock_timestamp())::float8 - filled_at,
    suspensions FROM server""",
)

SERVER_FOR: Final = _whole_store(
    "server_for",
    "int",
    """SELECT $1 - accounts, filled, extract(epoch FROM clock_timestamp())::float8 - filled_at
    FROM server""",
)

USE_INVITE: Final = _whole_store(
    "use_invite",
    "bytes int",
    "INSERT INTO invites (id, day) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING RETURNING true",
)

SUSPEND: Final = _whole_store(
    "suspend", "bytes", "INSERT INTO suspended (user_id) VALUES ($1) ON CONFLICT DO NOTHING"
)

RESUME: Final = _whole_store("resume", "bytes", "DELETE FROM suspended WHERE user_id = $1")

SUSPENDED: Final = _whole_store("suspended", "", "SELECT user_id FROM suspended")

NOTE_TIME: Final = _whole_store(
    "note_time",
    "int bytes",
    """INSERT INTO clock (one, lived, mark) VALUES (true, $1, $2)
    ON CONFLICT (one) DO UPDATE SET lived = excluded.lived, mark = excluded.mark
    WHERE clock.lived <= excluded.lived""",
)

SWEEP: Final = _whole_store(
    "sweep",
    "bytes int",
    """SELECT user_id, visit, fetched FROM accounts
    WHERE user_id >= $1 ORDER BY user_id LIMIT $2""",
)

FORGET_INVITES: Final = _whole_store(
    "forget_invites",
    "bytes int int",
    """WITH batch AS (
        SELECT id, day FROM invites WHERE id >= $1 ORDER BY id LIMIT $3
    ), gone AS (
        DELETE FROM invites WHERE id IN (SELECT id FROM batch WHERE day < $2)
    ) SELECT id FROM batch ORDER BY id""",
)

FORGET_PROOFS: Final = _whole_store(
    "forget_proofs",
    "int",
    """DELETE FROM proofs
    WHERE of_window < extract(epoch FROM clock_timestamp())::bigint / $1 - 2""",
)

POLL: Final = _whole_store(
    "poll", "list", "SELECT user_id, next_serial, stored FROM accounts WHERE user_id = ANY ($1)"
)
"""Rows of several users, each by its key: in one statement, as it is asked each second."""

NOTIFY: Final = _whole_store(
    "notify", "bytes", "SELECT pg_notify('cbfs', convert_from($1, 'UTF8'))"
)

SIZES: Final = _whole_store(
    "sizes",
    "",
    """SELECT (SELECT accounts FROM server),
    coalesce((SELECT sum(stored)::bigint FROM accounts), 0),
    (SELECT count(*) FROM blobs), coalesce((SELECT sum(put)::bigint FROM blobs), 0),
    pg_database_size(current_database())""",
)

SWEEP_BLOBS: Final = _whole_store(
    "sweep_blobs",
    "bytes int",
    "SELECT id, user_id, day, days FROM blobs WHERE id >= $1 ORDER BY id LIMIT $2",
)

ERASING: Final = _whole_store(
    "erasing",
    "int",
    """SELECT id, (SELECT count(*) FROM (
        SELECT FROM chunks WHERE chunks.id = erasing.id LIMIT $1
    ) AS few) FROM erasing ORDER BY id LIMIT $1""",
)
"""And how many chunks of each are left, up to as many."""

EXPIRES: Final = _whole_store("expires", "int", "SELECT pg_try_advisory_lock($1)")
