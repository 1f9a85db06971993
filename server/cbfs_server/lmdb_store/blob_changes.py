"""How blobs are changed and read in LMDB: what is decided, and what is written."""

import logging
from collections.abc import Callable
from typing import Any

from cbfs_common.wire.blobs import BlobChunk
from cbfs_common.wire.requests import AnyReply, Code
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import ERASE_BATCH, EXPIRY_BATCH, Limits
from cbfs_server.lmdb_store.mailboxes import MailboxReader, MailboxWriter
from cbfs_server.store.blobs import made, refusal
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddBlob,
    AddChunk,
    AskBlob,
    EndBlob,
    EraseChunks,
    ForgetBlobs,
    ReadChunk,
    SweptBlobs,
)

_log = logging.getLogger(__name__)

_NO_ACCOUNT = REFUSED[Code.NO_ACCOUNT]


class BlobChanges:
    """Makes changes of blobs, within the ``limits``."""

    def __init__(self, limits: Current[Limits]) -> None:
        self._limits = limits
        self.makers: dict[type[Any], Callable[[Any, MailboxWriter], Any]] = {
            AddBlob: self._add_blob,
            AddChunk: _add_chunk,
            EndBlob: _end_blob,
            ForgetBlobs: _forget_blobs,
            EraseChunks: lambda _asked, writer: writer.blobs.erase(ERASE_BATCH),
        }
        """How each is made."""

    def _add_blob(self, asked: AddBlob, writer: MailboxWriter) -> AnyReply:
        if writer.account(asked.user) is None:
            return _NO_ACCOUNT
        blobs, limits = writer.blobs, self._limits.now
        held, erased = blobs.holding(asked.user), blobs.is_erased(asked.id)
        reply = refusal(asked, blobs.blob(asked.id), erased, held, limits, writer.room)
        if reply is not None:
            return reply
        blob = made(asked, limits)
        blobs.add_blob(asked.id, blob, held)
        return blob.state


def _add_chunk(asked: AddChunk, writer: MailboxWriter) -> AnyReply:
    blobs = writer.blobs
    blob = blobs.blob(asked.id)
    if blob is None or blob.user != asked.user:
        known = writer.account(asked.user) is not None
        return REFUSED[Code.UNKNOWN_BLOB] if known else _NO_ACCOUNT
    if asked.index < blob.put:
        same = blobs.chunk(asked.id, asked.index) == asked.chunk
        return DONE if same else REFUSED[Code.BLOB_DIFFERS]
    if asked.index > blob.put or asked.index >= blob.chunks:
        return REFUSED[Code.NO_CHUNK]
    held = blobs.holding(asked.user)
    if not held.fits(writer.room, 1):
        return REFUSED[Code.FULL]
    blobs.add_chunk(asked.id, blob, held, asked.chunk)
    writer.chunks += 1
    return DONE


def _end_blob(asked: EndBlob, writer: MailboxWriter) -> AnyReply:
    if writer.account(asked.user) is None:
        return _NO_ACCOUNT
    blob = writer.blobs.blob(asked.id)
    if blob is not None and blob.user == asked.user:
        writer.blobs.forget(asked.id, blob)
    return DONE


def _forget_blobs(asked: ForgetBlobs, writer: MailboxWriter) -> SweptBlobs:
    blobs, gone = writer.blobs, 0
    ids = blobs.ids(asked.start, EXPIRY_BATCH)
    for id in ids:
        try:
            blob = blobs.blob(id)
            if blob is not None and blob.is_over(asked.today):
                blobs.forget(id, blob)
                gone += 1
        except StoreError as error:
            _log.error("an old blob stays: %s", error.in_full)
    return SweptBlobs(ids[-1] + b"\0" if len(ids) == EXPIRY_BATCH else None, gone)


def _ask_blob(asked: AskBlob, reader: MailboxReader) -> AnyReply:
    blob = reader.blobs.blob(asked.id)
    if blob is None or blob.user != asked.user:
        known = reader.account(asked.user) is not None
        return REFUSED[Code.UNKNOWN_BLOB] if known else _NO_ACCOUNT
    return blob.state


def _read_chunk(asked: ReadChunk, reader: MailboxReader) -> AnyReply:
    blob = reader.blobs.blob(asked.id)
    if blob is None or blob.user in asked.barred:
        return REFUSED[Code.UNKNOWN_BLOB]
    chunk = reader.blobs.chunk(asked.id, asked.index) if asked.index < blob.put else None
    return REFUSED[Code.NO_CHUNK] if chunk is None else BlobChunk(chunk)


ANSWERS: dict[type[Any], Callable[[Any, MailboxReader], Any]] = {
    AskBlob: _ask_blob,
    ReadChunk: _read_chunk,
}
"""How each question about blobs is answered."""
