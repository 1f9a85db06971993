"""What requests and replies of the message server are made of. PROTOCOL.rst, Messages.

A request or reply is a class of ``Request`` or ``Reply`` with its KIND and its fields; the checks
make each field of a payload what it must be.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from cbfs_common.errors import DecodeError

WRONG = "not a request or reply"
U64_MAX = 2**64 - 1


class UnknownRequest(DecodeError):
    """A request of a kind that there is not in this version of the protocol."""


def bytes_of(value: Any, size: int) -> bytes:
    """The bytes, of that size. Raises DecodeError, as all of these."""
    if type(value) is not bytes or len(value) != size:
        raise DecodeError(WRONG)
    return value


def count_of(value: Any) -> int:
    """The number, of up to 64 bits."""
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise DecodeError(WRONG)
    return value


def between(value: Any, least: int, most: int) -> int:
    """The number, from ``least`` to ``most``."""
    if not least <= count_of(value) <= most:
        raise DecodeError(WRONG)
    return int(value)


def flag_of(value: Any) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise DecodeError(WRONG)
    return value


def list_of(value: Any, size: int, most: int) -> tuple[bytes, ...]:
    """At most ``most`` items of that size."""
    if type(value) is not list or len(value) > most:
        raise DecodeError(WRONG)
    return tuple(bytes_of(item, size) for item in value)


def bytes_or_none(value: Any, size: int) -> bytes:
    """The bytes, of that size, or empty."""
    return b"" if value == b"" and type(value) is bytes else bytes_of(value, size)


class Reply:
    """The answer to a request."""

    __slots__ = ()
    KIND: ClassVar[int]

    def fields(self) -> tuple[Any, ...]:
        """What follows the kind in the array."""
        return ()


@dataclass(frozen=True, slots=True)
class Done(Reply):
    """What was asked for is done, and on the server's disk."""

    KIND: ClassVar[int] = 64


R_co = TypeVar("R_co", bound=Reply, covariant=True)


class Request(Generic[R_co]):
    """What asks a server for a reply of type R, or ErrorReply."""

    __slots__ = ()
    KIND: ClassVar[int]
    REPLY: ClassVar[type[Reply]] = Done

    def fields(self) -> tuple[Any, ...]:
        """What follows the kind in the array."""
        return ()
