"""What the message server keeps of accounts and envelopes, as values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """What is kept of an account. ``next_serial``: of the next envelope that arrives. ``stored``:
    envelopes in the mailbox."""

    next_serial: int
    stored: int


@dataclass(frozen=True, slots=True)
class Visit:
    """The last ``day`` (of the server's life) on which an account was asked about by its owner, or
    was made; and whether the owner has ever ``fetched`` from it."""

    day: int
    fetched: bool


@dataclass(frozen=True, slots=True)
class StoredEnvelope:
    """An envelope's place in its mailbox: ``serial``, the ``day`` of its arrival (of the server's
    life), and its ``id`` (16)."""

    serial: int
    day: int
    id: bytes
