"""What the message server keeps in PostgreSQL, in the schema ``cbfs``:

    accounts    user_id                 next_serial, stored (envelopes), visit (day), fetched,
                                        full_at: see GivePrekey
    mail        user_id, serial         day, id, envelope
    prekeys     user_id, kind, id       expires (8), the signed record
    kems        user_id                 the account's static ML-KEM key
    marks       user_id                 the mark of the account's client
    proofs      user_id, number         proofs of work that were used, and the window of each
    suspended   user_id                 there may be no account
    invites     id                      day on which it was used
    blobs       id                          user_id, data (chunks), chunks (all), put, day, days
    chunks      id, number                  a sealed chunk of the blob
    erasing     id                          user_id: of forgotten blobs whose chunks may be left
    server      one row                 version, key, how many accounts and suspensions there were,
                                        how full the bucket of newcomers is, and since when
    clock       one row                 the server's time as it was noted last

Serials count within one mailbox, and of an envelope's arrival the day is kept. The database itself
keeps more: see THREATS.rst. ``full_at`` and ``filled_at`` are seconds of the database's clock since
1970, the first by whole minutes.
"""

from typing import Final

VERSION: Final = 2

SERVER_VERSION_LEAST: Final = 140_000
"""PostgreSQL 14, as the database says it."""

_OFTEN: Final = "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2"

BLOBS: Final = f"""
CREATE TABLE cbfs.blobs (
    id bytea PRIMARY KEY,
    user_id bytea NOT NULL,
    data bigint NOT NULL,
    chunks bigint NOT NULL,
    put bigint NOT NULL,
    day bigint NOT NULL,
    days bigint NOT NULL
) WITH (fillfactor = 30, {_OFTEN});
CREATE INDEX blobs_of_user ON cbfs.blobs (user_id);
CREATE TABLE cbfs.chunks (
    id bytea NOT NULL,
    number bigint NOT NULL,
    chunk bytea NOT NULL,
    PRIMARY KEY (id, number)
) WITH ({_OFTEN}, toast.autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE cbfs.chunks ALTER COLUMN chunk SET STORAGE EXTERNAL;
CREATE TABLE cbfs.erasing (user_id bytea NOT NULL, id bytea PRIMARY KEY);
"""
"""What came with version 2."""

SCHEMA: Final = f"""
CREATE SCHEMA cbfs;
CREATE TABLE cbfs.accounts (
    user_id bytea PRIMARY KEY,
    next_serial bigint NOT NULL,
    stored bigint NOT NULL,
    visit bigint NOT NULL,
    fetched boolean NOT NULL,
    full_at bigint NOT NULL
) WITH (fillfactor = 60, {_OFTEN});
CREATE TABLE cbfs.mail (
    user_id bytea NOT NULL,
    serial bigint NOT NULL,
    day bigint NOT NULL,
    id bytea NOT NULL,
    envelope bytea NOT NULL,
    PRIMARY KEY (user_id, serial),
    UNIQUE (user_id, id)
) WITH ({_OFTEN}, toast.autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE cbfs.mail ALTER COLUMN envelope SET STORAGE EXTERNAL;
CREATE TABLE cbfs.prekeys (
    user_id bytea NOT NULL,
    kind bigint NOT NULL,
    id bytea NOT NULL,
    expires bytea NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (user_id, kind, id)
) WITH ({_OFTEN});
ALTER TABLE cbfs.prekeys ALTER COLUMN record SET STORAGE EXTERNAL;
CREATE TABLE cbfs.kems (user_id bytea PRIMARY KEY, kem bytea NOT NULL);
ALTER TABLE cbfs.kems ALTER COLUMN kem SET STORAGE EXTERNAL;
CREATE TABLE cbfs.marks (user_id bytea PRIMARY KEY, mark bytea NOT NULL);
CREATE TABLE cbfs.proofs (
    user_id bytea NOT NULL,
    number bytea NOT NULL,
    of_window bigint NOT NULL,
    PRIMARY KEY (user_id, number)
);
CREATE TABLE cbfs.suspended (user_id bytea PRIMARY KEY);
CREATE TABLE cbfs.invites (id bytea PRIMARY KEY, day bigint NOT NULL);
CREATE TABLE cbfs.server (
    one boolean PRIMARY KEY CHECK (one),
    version bigint NOT NULL,
    key bytea NOT NULL,
    accounts bigint NOT NULL,
    suspensions bigint NOT NULL,
    filled float8 NOT NULL,
    filled_at float8 NOT NULL
) WITH (fillfactor = 20);
CREATE TABLE cbfs.clock (
    one boolean PRIMARY KEY CHECK (one),
    lived bigint NOT NULL,
    mark bytea NOT NULL
);
{BLOBS}"""
"""Made in one transaction, with the row of ``server``."""

UPGRADES: Final = {1: BLOBS}
"""By the version before: what brings the tables to the next one, in one transaction with the
version."""
