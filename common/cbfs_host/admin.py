"""What the operator of a server asks of it while it runs: a unix socket in its data directory,
which this user alone can reach. One request for each connection.

A request is a msgpack array of strings, a verb and its words, and ends where the client closes its
half of the connection; a file may come with it, as a descriptor. The answer is an array of a
boolean and of lines, or of what went wrong; while the server is at work on it, a nil comes every
BEAT seconds, so that a client need not wait for a server that is gone. Any bytes give a request or
DecodeError, and no request of any kind ends more than itself.
"""

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import trio

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.strict_msgpack import unpack
from cbfs_host.complaints import CHECK_DATA, HostError, hint_of, reason_of
from cbfs_host.logs import tell_fault
from cbfs_host.meter import Counts

FOLDER: Final = "admin"
SOCKET: Final = "socket"
"""Where it is in the data directory: a directory of mode 0700, as the data directory itself may be
one that others may look into, and in it the socket, of mode 0600."""

WORDS_MAX: Final = 8
WORD_MAX: Final = 1_024
REQUEST_MAX: Final = 8_192
ANSWER_MAX: Final = 1 << 20
LINES_MAX: Final = 4_096
"""Words of a request and characters of each, bytes of a request and of an answer, lines of an
answer."""

CLIENTS_MAX: Final = 8
"""Connections at once; others wait in the kernel's queue."""

RECEIVE_TIMEOUT: Final = 10.0
SEND_TIMEOUT: Final = 10.0
BEAT: Final = 5.0
"""Seconds for a request to come, for an answer to go, and between two signs of life."""

PATH_MAX: Final = 100
"""Bytes of a socket's path; the system allows 107. A longer one is reached by its directory."""

Value = int | str | bool | None | Counts
"""What stands in a line."""

Lines = tuple[tuple[str, Value], ...]
"""An answer: names and values, in an order that people read."""

NIL: Final = b"\xc0"
_DESCRIPTOR: Final = struct.Struct("=i")
_FOREIGN: Final = "not a request of an operator"
_DAMAGED: Final = "not an answer of a server"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the ``verb`` and its ``words``."""

    verb: str
    words: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """An array of the verb and the words."""
        encoded: bytes = msgpack.packb([self.verb, *self.words])
        return encoded


def decode_asked(data: bytes) -> Asked:
    """Undo ``Asked.encode``. Raises DecodeError."""
    if len(data) > REQUEST_MAX:
        raise DecodeError(_FOREIGN)
    value = unpack(data, _FOREIGN, 1 + WORDS_MAX)
    if type(value) is not list or not value:
        raise DecodeError(_FOREIGN)
    verb, *words = (_word(each) for each in value)
    return Asked(verb, tuple(words))


def _word(value: Any) -> str:
    if type(value) is not str or len(value) > WORD_MAX:
        raise DecodeError(_FOREIGN)
    return value


def encode_answer(lines: Lines) -> bytes:
    """An array of true and the lines."""
    encoded: bytes = msgpack.packb([True, lines])
    return encoded


def encode_refusal(error: CbfsError) -> bytes:
    """An array of false, what went wrong, and what helps against it."""
    encoded: bytes = msgpack.packb([False, str(error), error.hint])
    return encoded


def decode_answer(data: bytes) -> Lines:
    """Undo ``encode_answer``. Raises DecodeError, and for what ``encode_refusal`` has made, that
    error as a HostError."""
    value = unpack(data, _DAMAGED, LINES_MAX)
    match value:
        case [True, list(lines)]:
            return tuple(_line(each) for each in lines)
        case [False, str(text), str(hint)]:
            raise HostError(text, hint)
    raise DecodeError(_DAMAGED)


def _line(value: Any) -> tuple[str, Value]:
    match value:
        case [str(name), list(counts)]:
            return name, tuple(_counted(each) for each in counts)
        case [str(name), int() | str() | None as found]:
            return name, found
    raise DecodeError(_DAMAGED)


def _counted(value: Any) -> tuple[str, int]:
    if type(value) is list and list(map(type, value)) == [str, int]:
        return value[0], value[1]
    raise DecodeError(_DAMAGED)


# The socket


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of a socket's path that is short enough to bind or to connect to. Raises OSError."""
    if len(os.fsencode(path)) <= PATH_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def operators_socket(data: Path) -> Iterator[socket.socket]:
    """The listening socket in a data directory that is locked, whose file is gone after the block.
    Raises HostError."""
    folder = data / FOLDER
    path = folder / SOCKET
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
            path.unlink(missing_ok=True)  # of a process that was killed
            with reachable(path) as name:
                listener.bind(name)
            path.chmod(0o600)
            listener.listen(CLIENTS_MAX)
        except OSError as error:
            raise HostError(
                f"cannot listen at {path}: {error.strerror or error}", "check the data directory"
            ) from error
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


# Answering


@dataclass(frozen=True, slots=True)
class Verb:
    """How one is answered: ``do`` gets the words, ``least`` to ``most`` of them, and the descriptor
    of the file that came (-1 for none); ``file``: one has to. ``do`` raises CbfsError."""

    do: Callable[[tuple[str, ...], int], Awaitable[Lines]]
    least: int = 0
    most: int = 0
    file: bool = False


async def answer_operators(listener: socket.socket, verbs: Mapping[str, Verb]) -> None:
    """Answer at a listening socket until cancelled."""
    free = trio.Semaphore(CLIENTS_MAX)
    waiting = trio.socket.from_stdlib_socket(listener.dup())
    with waiting:
        async with trio.open_nursery() as nursery:
            while True:
                await free.acquire()
                client, _ = await waiting.accept()
                nursery.start_soon(_serve, client, verbs, free)


async def _serve(
    client: trio.socket.SocketType, verbs: Mapping[str, Verb], free: trio.Semaphore
) -> None:
    files: list[int] = []
    try:
        with client, suppress(OSError):
            with trio.move_on_after(RECEIVE_TIMEOUT) as limit:
                data = await _receive(client, files)
            if limit.cancelled_caught:
                return
            answer = await _at_work(client, verbs, data, files)
            with trio.move_on_after(SEND_TIMEOUT):
                rest = memoryview(answer)
                while rest:
                    rest = rest[await client.send(rest) :]
    finally:
        for each in files:
            os.close(each)
        free.release()


async def _receive(client: trio.socket.SocketType, files: list[int]) -> bytes:
    """All that the client sends until it closes its half, or more than a request has; descriptors
    that come with it are put into ``files``."""
    data = b""
    while len(data) <= REQUEST_MAX:
        part, more, _flags, _from = await client.recvmsg(
            REQUEST_MAX, socket.CMSG_SPACE(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, value in more:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = value[: len(value) // _DESCRIPTOR.size * _DESCRIPTOR.size]
                files += (number for (number,) in _DESCRIPTOR.iter_unpack(whole))
        if not part:
            break
        data += part
    return data


async def _at_work(
    client: trio.socket.SocketType, verbs: Mapping[str, Verb], data: bytes, files: list[int]
) -> bytes:
    """The answer, encoded. Until it is there the client gets signs of life. It is worked on to the
    end also when the client has gone."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_beat, client)
        answer = await _answer(verbs, data, files)
        nursery.cancel_scope.cancel()
    return answer


async def _beat(client: trio.socket.SocketType) -> None:
    with suppress(OSError):
        while True:
            await trio.sleep(BEAT)
            await client.send(NIL)


async def _answer(verbs: Mapping[str, Verb], data: bytes, files: list[int]) -> bytes:
    try:
        asked = decode_asked(data)
        verb = verbs.get(asked.verb)
        if verb is None:
            raise HostError(
                f"this server does not know {asked.verb!r}", "is it of another version?"
            )
        if not verb.least <= len(asked.words) <= verb.most or len(files) != verb.file:
            raise DecodeError(f"{asked.verb} is not asked for like this")
        return encode_answer(await verb.do(asked.words, files[0] if files else -1))
    except CbfsError as error:
        return encode_refusal(error)
    except OSError as error:
        return encode_refusal(HostError(reason_of(error), hint_of(error, CHECK_DATA)))
    except Exception as error:
        tell_fault("a request of the operator", error)
        return encode_refusal(HostError("a fault of the server, which its log describes"))
