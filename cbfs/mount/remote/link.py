"""The link of a mount on another machine to its hub: ssh(1) with ``cbfs serve`` behind it.

It is made anew whenever it ends, after waits that grow. What is asked while there is none fails at
once, and what is not answered in time fails then: no link, however it ends or stands still, makes
anybody wait for longer. Parts of files go behind whatever else is asked, and no more of them are on
their way than arrive in about a second: on a slow link nobody waits for a large file.
"""

import errno
import logging
import math
import os
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import trio
import trio.lowlevel

from cbfs.mount.remote.spool import WaitingFile
from cbfs.mount.remote.ssh.greeting import Silent, greeted, last_line, listen
from cbfs.mount.remote.wire import ID_SIZE, PART, PIECE_MAX, read_hub_answer
from cbfs.mount.single.wire import Answer, Frames, frame
from cbfs.storage.faults import contained, harmless
from cbfs_common.errors import CbfsError, DecodeError, in_words
from cbfs_common.primitives import Random

ASK_MAX: Final = 15.0
"""Seconds until what is asked has to be answered, or the next piece of it has to come."""

PUT_MAX: Final = 60.0
"""Seconds until the next part of a file has to be at the hub, and the file has to be a draft when
all of it is."""

BUSY: Final = 64 * 1024
"""Bytes of answers that have to come in ASK_MAX for a link to be busy: an answer may wait its turn
then."""

AHEAD_LEAST, AHEAD_FIRST, AHEAD_MOST = 32 * 1024, 64 * 1024, 1 << 20
"""Bytes of a file on their way, of which the hub has not said that it has them: at least, at first,
and at most."""

SOON, LATE = 0.5, 1.5
"""Seconds that a part may take more than the fastest one has, for more to be on their way, and from
which on it is to be less."""

PING: Final = 15.0
"""Seconds between two pings."""

FIRST_WAIT, MOST_WAIT = 0.5, 60.0
"""Seconds until it is tried again, at first and at most; each time at random between a half and the
whole."""

LIVED: Final = 5.0
"""Seconds that a link has to live for the next one to be tried soon."""

HURRIED: Final = 2.0
"""Seconds after which it is tried again when somebody asks for something."""

ANSWERS_MAX: Final = 64
"""Pieces of one answer, of PIECE_MAX bytes each, that nobody has taken yet: the next waits."""

PIECES_MAX: Final = 4_096
"""Pieces that one answer may have."""

WHOLE_MAX: Final = 300.0
"""Seconds until all of one answer has to be there."""

_QUEUE = 16
_log = logging.getLogger(__name__)


class AwayError(OSError):
    """The hub cannot be asked, or has not answered: it may have done what it was asked."""

    def __init__(self, number: int = errno.EHOSTUNREACH) -> None:
        super().__init__(number, os.strerror(number))


class _Pace:
    """How much of files may be on its way: it lies with ssh and the kernel, and whatever is asked
    then comes behind it."""

    def __init__(self) -> None:
        self.most = AHEAD_FIRST
        self.ahead = 0
        self._fastest = WHOLE_MAX

    def came(self, size: int, took: float) -> None:
        """So many bytes are at the hub, so many seconds after they were sent."""
        self._fastest = min(self._fastest, took)
        if took < self._fastest + SOON:
            self.most = min(AHEAD_MOST, self.most + size)
        elif took > self._fastest + LATE:
            self.most = max(AHEAD_LEAST, self.most - size)


class _Link:
    """One process of ssh, from its greeting to its end."""

    def __init__(self, process: trio.Process, news: Callable[[list[Any]], None]) -> None:
        self.process = process
        self._news = news
        self._last = 2
        self._unwanted = 0
        self._waiting: dict[int, trio.MemorySendChannel[Answer]] = {}
        self._out, self._queue = trio.open_memory_channel[bytes](_QUEUE)
        self._parts_out, self._parts = trio.open_memory_channel[bytes](0)
        self._more = trio.Event()
        self.pace = _Pace()
        self.heard = 0
        """Bytes that have come."""
        self.ended = trio.Event()

    async def write(self) -> None:
        """Send what is asked, until it ends. Nothing else writes: a frame that is begun is ended,
        whoever gives up waiting."""
        stream = self.process.stdin
        if stream is None:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not self.ended.is_set():
                await stream.send_all(await self._next())
        self.end()

    async def _next(self) -> bytes:
        """What is to go out next: a part of a file where there is nothing else. Raises
        trio.ClosedResourceError when it has ended."""
        while True:
            for queue in (self._queue, self._parts):
                with suppress(trio.WouldBlock):
                    return queue.receive_nowait()
            self._more = trio.Event()
            await self._more.wait()

    async def read(self, frames: Frames) -> None:
        """Take what is answered, until it ends. Raises DecodeError."""
        stream = self.process.stdout
        if stream is None:
            return
        data: bytes | bytearray = b""  # what came behind the greeting
        while True:
            for each in frames.add(data):
                answer = read_hub_answer(each)
                if not answer.number:
                    self._news(answer.result)
                    continue
                channel = self._waiting.get(answer.number)
                if channel is None:  # somebody has given up waiting for it
                    self._unwanted += 1
                    if self._unwanted > PIECES_MAX * self._last:
                        raise DecodeError("more than anybody can have asked for")
                else:
                    # who has given up takes nothing, and who takes it waits for nothing else
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await channel.send(answer)
            data = await stream.receive_some()
            if not data:
                return
            self.heard += len(data)

    def end(self) -> None:
        """It is of no use any more: who waits is told."""
        self.ended.set()
        for waiting in self._waiting.values():
            waiting.close()
        self._waiting.clear()
        for channel in (self._out, self._queue, self._parts_out, self._parts):
            channel.close()
        self._more.set()
        with suppress(OSError):
            self.process.kill()

    async def send(self, *fields: object, later: bool = False) -> None:
        """``later``: behind what is not. Raises AwayError."""
        self._more.set()
        try:
            await (self._parts_out if later else self._out).send(frame(*fields))
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise AwayError from error

    def asked(self, limit: float) -> "_Asked":
        """A question that is to be asked; each answer has to come within ``limit`` seconds."""
        return _Asked(self, limit)

    def expect(self, channel: trio.MemorySendChannel[Answer]) -> int:
        """The number of the next question, whose answers go there. Raises AwayError."""
        if self.ended.is_set():
            raise AwayError
        self._last += 1
        self._waiting[self._last] = channel
        return self._last

    def forget(self, number: int) -> None:
        """Nobody waits for these answers any more."""
        self._waiting.pop(number, None)


class _Asked:
    """One question, and what is answered, in as many pieces as come."""

    def __init__(self, link: _Link, limit: float) -> None:
        self._link = link
        self._limit = limit
        self._channel, self._received = trio.open_memory_channel[Answer](ANSWERS_MAX)
        self._number = 0

    def __enter__(self) -> "_Asked":
        self._number = self._link.expect(self._channel)
        return self

    def __exit__(self, *_error: object) -> None:
        self._link.forget(self._number)
        self._received.close()

    async def ask(self, word: str, arguments: tuple[object, ...], *, later: bool = False) -> None:
        """Raises AwayError."""
        with trio.move_on_after(self._limit):
            await self._link.send(self._number, word, list(arguments), later=later)
            return
        raise AwayError(errno.ETIMEDOUT)

    async def answer(self, latest: float = math.inf) -> Any:
        """The next one, until then (by trio's clock). Raises OSError."""
        end = min(latest, trio.current_time() + WHOLE_MAX)
        while True:
            heard = self._link.heard
            try:
                with trio.move_on_after(self._limit):
                    answer = await self._received.receive()
                    if answer.errno:
                        raise OSError(answer.errno, os.strerror(answer.errno))
                    return answer.result
            except trio.EndOfChannel as error:
                raise AwayError from error
            if self._link.heard - heard < BUSY or trio.current_time() >= end:
                raise AwayError(errno.ETIMEDOUT)


class _Parts:
    """The parts of one file that is handed over. In a ``with`` block."""

    def __init__(self, link: _Link, identity: bytes) -> None:
        self._pace = link.pace
        self._asked = link.asked(PUT_MAX)
        self._identity = identity
        self._ahead: deque[tuple[int, float]] = deque()

    def __enter__(self) -> "_Parts":
        self._asked.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pace.ahead -= sum(size for size, _ in self._ahead)
        self._asked.__exit__(*error)

    async def send(self, content: bytes, begin: int) -> OSError | None:
        """Send what is behind ``begin``. Gives why a part is refused: then no more is sent. Raises
        AwayError."""
        view, at = memoryview(content), begin
        while at < len(view):
            size = min(PART, self._pace.most // 4)
            while self._ahead and self._pace.ahead + size > self._pace.most:
                if refused := await self._taken():
                    return refused
            data = bytes(view[at : at + size])
            await self._asked.ask("part", (self._identity, at, data), later=True)
            self._ahead.append((len(data), trio.current_time()))
            self._pace.ahead += len(data)
            at += len(data)
        return None

    async def rest(self) -> OSError | None:
        """Wait until all of them are there. Gives why one is refused. Raises AwayError."""
        while self._ahead:
            if refused := await self._taken():
                return refused
        return None

    async def _taken(self) -> OSError | None:
        try:
            await self._asked.answer()
        except AwayError:
            raise
        except OSError as error:
            return error
        size, when = self._ahead.popleft()
        self._pace.ahead -= size
        self._pace.came(size, trio.current_time() - when)
        return None


class Pieces:
    """An answer in several frames, without whether there are more: to be gone through in a ``with``
    block. Raises OSError: what the hub says, AwayError, or EIO for what is no answer."""

    def __init__(self, asked: _Asked, word: str, arguments: tuple[object, ...]) -> None:
        self._asked = asked
        self._word = word
        self._arguments = arguments
        self._state = 0  # 0: not asked yet; 1: there is more; 2: that was all
        self._count = 0
        self._end = trio.current_time() + WHOLE_MAX

    def __enter__(self) -> "Pieces":
        self._asked.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._asked.__exit__(*error)

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> list[Any]:
        if self._state == 0:
            await self._asked.ask(self._word, self._arguments)
        if self._state == 2:
            raise StopAsyncIteration
        self._count += 1
        if trio.current_time() > self._end:
            raise AwayError(errno.ETIMEDOUT)
        match await self._asked.answer(self._end):
            # a piece of nothing, with more to come, is how an answer never ends
            case [bool(more), *rest] if rest and (rest[-1] or not more):
                if self._count <= PIECES_MAX:
                    self._state = 1 if more else 2
                    return rest
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class HubLink:
    """The link to the hub that ``command`` leads to."""

    def __init__(self, command: Sequence[str], random: Random) -> None:
        self._command = command
        self._random = random
        self._mount = random.token(ID_SIZE)  # what ssh still has of an earlier link is not done
        self._link: _Link | None = None
        self._wanted = trio.Event()
        self._hub_time = 0
        self.since = 0
        """Until when the link before this one was heard of, by the hub's clock (nanoseconds since
        1970), or a little earlier."""
        self.generation = 0
        """How many links there have been."""
        self.lost = 0.0
        """When the last one ended, in seconds since 1970."""
        self.why = ""
        """Why there is none."""
        self.account = b""
        """What the hub calls the account, since the first link: another one is none of ours."""

    @property
    def is_up(self) -> bool:
        """Whether the hub can be asked."""
        return self._link is not None and not self._link.ended.is_set()

    async def run(
        self,
        news: Callable[[list[Any]], None],
        changed: Callable[[], None],
        back: Callable[[], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled. ``news`` is given what the hub says by itself; ``changed`` is called
        when there is a link, or none any more, and ``back`` is run when there is one. Has started
        when there is the first; raises CbfsError where that cannot be made."""
        self._news, self._changed = news, changed
        wait, first = FIRST_WAIT, True

        def made() -> None:
            nonlocal first
            if first:
                first = False
                task_status.started()

        while True:
            began = time.monotonic()
            try:
                with contained():
                    await self._once(back, made)
                self.why = "the link has ended"
            except (CbfsError, OSError) as error:
                self.why = in_words(error)
                if first:
                    raise
            if time.monotonic() - began > LIVED:
                wait = FIRST_WAIT
            _log.warning("the hub cannot be reached: %s", self.why)
            share = 0.5 + int.from_bytes(self._random.token(2), "big") / 131_072
            await self._pause(wait * share)
            wait = min(2 * wait, MOST_WAIT)

    async def _pause(self, seconds: float) -> None:
        self._wanted = trio.Event()
        await trio.sleep(min(seconds, HURRIED))
        with trio.move_on_after(max(0.0, seconds - HURRIED)):
            await self._wanted.wait()

    async def _once(self, back: Callable[[], Awaitable[None]], made: Callable[[], None]) -> None:
        """One link, from its beginning to its end. Raises CbfsError, OSError."""
        process = await trio.lowlevel.open_process(
            list(self._command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Control-C at the terminal is for others
        )
        told = bytearray()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, process, told)
                try:
                    await self._live(process, back, made)
                except Silent as error:
                    with trio.move_on_after(1.0):  # what ssh has to say of it
                        await process.wait()
                    await trio.lowlevel.checkpoint()
                    raise CbfsError(last_line(told) or str(error), error.hint) from error
                finally:
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if group.subgroup(lambda error: not isinstance(error, _EXPECTED)) is not None:
                raise
            raise _first(group) from None
        finally:
            with suppress(OSError):
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()  # killed: at once, whatever it was doing
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        await trio.aclose_forcefully(stream)

    async def _live(
        self,
        process: trio.Process,
        back: Callable[[], Awaitable[None]],
        made: Callable[[], None],
    ) -> None:
        frames = Frames(PIECE_MAX)
        hub_time, account = await greeted(process, frames, self._mount)
        self.account = self.account or account
        if account != self.account:
            raise CbfsError(
                "another account answers there now", "to mount that one, unmount this one first"
            )
        link = _Link(process, self._news)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.write)
                nursery.start_soon(self._ping, link)
                self.since, self._hub_time = self._hub_time, hub_time
                self._link = link
                self.generation += 1
                self.why = ""
                self._changed()
                made()
                nursery.start_soon(self._tell_back, back)
                await link.read(frames)
                link.end()
                nursery.cancel_scope.cancel()
        except* DecodeError as group:
            _log.error("the hub was not understood: %s", group.exceptions[0])
        finally:
            self._link = None
            self.lost = time.time()
            link.end()
            self._changed()

    async def _tell_back(self, back: Callable[[], Awaitable[None]]) -> None:
        with harmless(), suppress(AwayError):
            await back()

    async def _ping(self, link: _Link) -> None:
        """End a link of which nothing is heard; one that is slow lives."""
        while True:
            await trio.sleep(PING)
            heard = link.heard
            try:
                with link.asked(ASK_MAX) as asked:
                    await asked.ask("ping", ())
                    told = await asked.answer()
                    self._hub_time = told if type(told) is int else self._hub_time
            except OSError:
                if link.heard == heard:
                    link.end()
                    return

    # what handlers ask

    async def ask(self, word: str, *arguments: object, limit: float = ASK_MAX) -> Any:
        """What the hub answers. Raises OSError: what it says, or AwayError."""
        with self._up().asked(limit) as asked:
            await asked.ask(word, arguments)
            return await asked.answer()

    def pieces(self, word: str, *arguments: object) -> Pieces:
        """What the hub answers in several frames. Raises AwayError."""
        return Pieces(self._up().asked(ASK_MAX), word, arguments)

    async def tell(self, word: str, *arguments: object) -> None:
        """Say what is not answered. Raises AwayError."""
        with trio.move_on_after(ASK_MAX):
            await self._up().send(0, word, list(arguments))
            return
        raise AwayError(errno.ETIMEDOUT)

    async def hand_over(self, item: WaitingFile, content: bytes, *, again: bool = False) -> Any:
        """Give the hub a file as a whole; ``again``: it may have some of it already, or all. Raises
        as ``ask``."""
        link = self._up()
        begin = await self._begun(item.identity, len(content)) if again else 0
        if begin is None:
            return []
        words = item.identity, item.path, item.mode, item.modified, len(content)
        more = item.conversation, item.replaces, item.before
        with link.asked(PUT_MAX) as put, _Parts(link, item.identity) as parts:
            refused = await parts.send(content, begin)
            # also then: it may be there by an earlier try
            await put.ask("put", (*words, *more), later=True)
            refused = refused or await parts.rest()
            try:
                return await put.answer()
            except AwayError:
                raise
            except OSError as error:
                raise refused or error from error

    async def _begun(self, identity: bytes, size: int) -> int | None:
        """How many bytes of a file are at the hub; None where all of it was made a draft."""
        begin = await self.ask("upload", identity)
        if begin is None or (type(begin) is int and 0 <= begin <= size):
            return begin
        return 0

    def _up(self) -> _Link:
        if self._link is None:
            self._wanted.set()
            raise AwayError
        return self._link

    def hurry(self) -> None:
        """Somebody would be glad of a link."""
        self._wanted.set()


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


_EXPECTED = (CbfsError, OSError, BaseExceptionGroup)
