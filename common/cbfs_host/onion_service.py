"""Publishes a server as an onion service, through the tor of this machine.

The service lives as long as the control connection, and is published again when tor comes back
after it has ended.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import stem
import stem.connection
import stem.control
import trio

from cbfs_common.faults import trace_of
from cbfs_common.onion import add_onion_command
from cbfs_host.listening import Place
from cbfs_host.onion import Onion, OnionError
from cbfs_host.tor_control import controller

_log = logging.getLogger(__name__)

CALL_TIMEOUT: Final = 10.0
"""Seconds that tor may take to answer its control port."""

PUBLISH_TIMEOUT: Final = 180.0
"""Seconds until the service must be published. Usual are 2 to 30."""

BACKOFF_FIRST: Final = 1.0
BACKOFF_LAST: Final = 60.0
"""Seconds before a tor that has ended is looked for again: the first time, and at most."""

T = TypeVar("T")


@asynccontextmanager
async def published(onion: Onion, target: Place) -> AsyncIterator[str]:
    """Publishes port 1984 of the onion service for the length of the ``async with``, connected to
    ``target``. Gives its host name as soon as clients can find it.

    Raises OnionError when that fails the first time; later it is tried again for ever.
    """
    live = await _publish(onion, target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep, live, onion, target)
        yield onion.key.host
        nursery.cancel_scope.cancel()


async def _keep(live: "_Live", onion: Onion, target: Place) -> None:
    """Publishes again each time that tor has ended."""
    while True:
        try:
            await live.ended.wait()
        finally:
            await _end(live)
        _log.warning("tor has ended: the onion service is away until it is back")
        live = await _publish_again(onion, target)
        _log.warning("the onion service is published again")


async def _end(live: "_Live") -> None:
    try:
        await live.aclose()
    except Exception as error:
        _log.error("a fault in leaving tor:\n%s", trace_of(error))


async def _publish_again(onion: Onion, target: Place) -> "_Live":
    pause = BACKOFF_FIRST
    while True:
        await trio.sleep(pause)
        pause = min(2 * pause, BACKOFF_LAST)
        try:
            return await _publish(onion, target)
        except OnionError as error:
            _log.warning("the onion service is not published: %s", error.in_full)
        except Exception as error:
            _log.error("a fault in publishing the onion service:\n%s", trace_of(error))


async def _publish(onion: Onion, target: Place) -> "_Live":
    """A session with tor through which the service is published. Raises OnionError."""
    live = _Live(onion.control)
    try:
        await live.call(live.authenticate)
        await live.listen(onion.key.host.removesuffix(".onion"))
        await live.call(live.add, onion, target)
        with trio.move_on_after(PUBLISH_TIMEOUT):
            await live.uploaded.wait()
        if live.ended.is_set() or not live.uploaded.is_set():
            raise OnionError(
                f"the tor at {onion.control} did not publish the onion service",
                "is it connected? see its log: journalctl -u tor@default",
            )
    except BaseException:
        await live.aclose()
        raise
    return live


class _Live:
    """A control connection to tor at ``address``. Raises OnionError."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.uploaded = trio.Event()
        self.ended = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        with _in_words(address):
            self._controller = controller(address)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a blocking method in a thread, for CALL_TIMEOUT at most. Raises OnionError, and what
        it raises."""
        with trio.move_on_after(CALL_TIMEOUT):
            return await trio.to_thread.run_sync(
                function, *arguments, limiter=self._limiter, abandon_on_cancel=True
            )
        raise OnionError(f"what answers at {self.address} is no tor, or it hangs", "restart tor")

    def authenticate(self) -> None:
        """Blocks. Proves that this user may use that tor."""
        with _in_words(self.address):
            self._controller.authenticate()

    async def listen(self, service: str) -> None:
        """From now on sets ``uploaded`` and ``ended`` when they are so; ``ended`` sets both, so
        that nobody waits for what cannot come."""
        token = trio.lowlevel.current_trio_token()

        def hand_over(event: trio.Event) -> None:
            with contextlib.suppress(trio.RunFinishedError):  # the program is ending
                token.run_sync_soon(event.set)

        def on_descriptor(event: stem.response.events.HSDescEvent) -> None:
            if event.action == "UPLOADED" and event.address == service:
                hand_over(self.uploaded)

        def on_status(controller: object, state: object, when: object) -> None:
            if state == stem.control.State.CLOSED:
                hand_over(self.ended)
                hand_over(self.uploaded)

        await self.call(self._listen, on_descriptor, on_status)

    def _listen(self, on_descriptor: object, on_status: object) -> None:
        with _in_words(self.address):
            self._controller.add_status_listener(on_status, spawn=False)
            self._controller.add_event_listener(on_descriptor, "HS_DESC")

    def add(self, onion: Onion, target: Place) -> None:
        """Blocks. Gives the service to tor, with proof of work against floods where tor has it."""
        with _in_words(self.address):
            for proof_of_work in (True, False):
                command = add_onion_command(onion.key, str(target), onion.clients, proof_of_work)
                reply = self._controller.msg(command)
                if reply.is_ok():
                    return
                _log.warning("tor refuses the service with proof of work on: %s", proof_of_work)
        code = reply.content()[-1][0]
        raise OnionError(
            f"tor refuses the onion service ({code})", "is a second server running with this key?"
        )

    async def aclose(self) -> None:
        """Ends the connection, and so the service. Also ends calls that hang."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        with contextlib.suppress(stem.ControllerError, OSError):
            self._controller.close()


@contextlib.contextmanager
def _in_words(address: str) -> Iterator[None]:
    """Turns stem's errors into OnionError with what the operator can do."""
    try:
        yield
    except PermissionError as error:
        raise OnionError(
            f"this user may not use the tor at {address}", "adduser YOU debian-tor"
        ) from error
    except (OSError, stem.SocketError, ValueError) as error:
        raise OnionError(f"no tor answers at {address}", "systemctl start tor") from error
    except stem.connection.UnreadableCookieFile as error:
        raise OnionError(
            f"this user may not read the cookie of the tor at {address}", "adduser YOU debian-tor"
        ) from error
    except stem.connection.AuthenticationFailure as error:
        raise OnionError(
            f"the tor at {address} does not let us in", "put CookieAuthentication 1 into its torrc"
        ) from error
    except stem.ControllerError as error:
        raise OnionError(
            f"what answers at {address} is not a tor's control port", "not its SocksPort?"
        ) from error
