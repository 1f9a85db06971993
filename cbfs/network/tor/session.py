"""A tor in use, for trio: found or started, asked in threads, ended for certain."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar, TypeVarTuple, Unpack

import trio

from cbfs.network.tor.config import ClientKey, TorOptions, own_lines
from cbfs.network.tor.control import (
    ControlError,
    ControlRefused,
    TorSession,
    launch,
    owner_of_listener,
)
from cbfs.network.tor.events import Bootstrap, Event

USUAL_PLACES: Final = ("/run/tor/control", "127.0.0.1:9051", "127.0.0.1:9151")
"""Debian's system tor, tor's own default, Tor Browser."""

SYSTEM_UID_MAX: Final = 999
"""User ids up to this belong to the system (login.defs, SYS_UID_MAX), not to a person."""

CALL_TIMEOUT: Final = 10.0
"""Seconds that a tor may take to answer its control port; one that takes longer hangs."""

STOP_TIMEOUT: Final = 5.0
"""Seconds that our own tor has to end before it is killed."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Health:
    """How a tor is that answers."""

    socks: tuple[str, int]
    """Where it speaks SOCKS."""
    bootstrap: Bootstrap
    established: bool
    """Whether it could build a circuit lately."""


class LiveTor:
    """A tor and an authenticated control session with it. One call at a time goes on in a
    thread; one that takes too long ends the session."""

    def __init__(self, session: TorSession, process: "subprocess.Popen[bytes] | None") -> None:
        self.session = session
        self._process = process
        self._limiter = trio.CapacityLimiter(1)
        self._given: list[str] = []
        self.address = session.address

    @classmethod
    async def running(cls, address: str) -> Self:
        """The tor whose control socket or port is at ``address``. Raises ControlError."""
        return await cls._opened(address, None)

    @classmethod
    async def own(cls, options: TorOptions, directory: Path, socket: str) -> Self:
        """A new tor with its data in ``directory``, which ends with this object, and with this
        process. Raises ControlError or TorConfigError."""
        lines = own_lines(options, directory, socket)
        process = await trio.to_thread.run_sync(_launch, options.program, lines, directory)
        return await cls._opened(socket, process)

    @classmethod
    async def _opened(cls, address: str, process: "subprocess.Popen[bytes] | None") -> Self:
        try:
            live = cls(TorSession(address), process)
        except BaseException:
            await _stop(process)
            raise
        try:
            await live.call(live.session.authenticate)
            await live.check()
        except BaseException:
            await live.aclose()
            raise
        return live

    async def call(self, function: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
        """Calls a blocking method of the session. Raises what it raises, and ControlError when
        tor hangs."""
        with trio.move_on_after(CALL_TIMEOUT):
            return await trio.to_thread.run_sync(
                function, *arguments, limiter=self._limiter, abandon_on_cancel=True
            )
        await self.aclose()
        raise ControlError(
            f"the tor at {self.address} does not answer", "restart it: systemctl restart tor"
        )

    async def check(self) -> Health:
        """How the tor is now. Raises ControlError when it cannot be used."""
        return Health(
            await self.call(_socks_port, self.session),
            await self.call(self.session.bootstrap),
            await self.call(self.session.get_info, "status/circuit-established") == "1",
        )

    async def listen(self, heard: Callable[[Event], None], ended: Callable[[], None]) -> None:
        """From now on calls ``heard`` with each event, and ``ended`` once after the last."""
        token = trio.lowlevel.current_trio_token()

        def hand_over(function: Callable[..., object], *arguments: object) -> None:
            try:
                token.run_sync_soon(function, *arguments)
            except trio.RunFinishedError:
                return  # the program is ending, and nobody asks any more

        await self.call(
            self.session.listen,
            lambda event: hand_over(heard, event),
            lambda: hand_over(ended),
        )

    async def give_keys(self, keys: Iterable[ClientKey]) -> None:
        """Gives tor the keys for private onion services, until this object is closed."""
        for key in keys:
            await self.call(self.session.add_client_key, key.service, key.key)
            self._given.append(key.service)

    async def aclose(self) -> None:
        """Ends the session, and the tor when it is our own. Also ends calls that hang."""
        with trio.CancelScope(shield=True):
            if self._process is None and self._given:
                with trio.move_on_after(CALL_TIMEOUT):
                    await trio.to_thread.run_sync(self._take_keys_back, abandon_on_cancel=True)
            await trio.to_thread.run_sync(self.session.close)
            await _stop(self._process)

    def _take_keys_back(self) -> None:
        """A tor that goes on without us should not open our doors to others."""
        with contextlib.suppress(ControlError):
            while self._given:
                self.session.remove_client_key(self._given.pop())


async def find_running() -> tuple[LiveTor | None, ControlError | None]:
    """The running tor of this machine that may be used, else why the one that there is may
    not."""
    refused: ControlError | None = None
    for place in USUAL_PLACES:
        try:
            _check_owner(place)
            return await LiveTor.running(place), None
        except ControlError as error:
            if error.lasting and refused is None:
                refused = error
    return None, refused


def _launch(program: str, lines: Iterable[str], directory: Path) -> "subprocess.Popen[bytes]":
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # tor puts no socket where others could
    except OSError as error:
        raise ControlRefused(
            f"cannot make {directory}: {error.strerror}", "is the account directory writable?"
        ) from error
    return launch(program, lines)


def _check_owner(address: str) -> None:
    """Raises ControlRefused when another person of this machine listens where tor would: all our
    traffic would be his to see."""
    owner = owner_of_listener(address)
    if owner is not None and owner > SYSTEM_UID_MAX and owner != os.getuid():
        raise ControlRefused(
            f"what answers at {address} belongs to another user",
            f"to use it nevertheless, name it: --tor {address}",
        )


def _socks_port(session: TorSession) -> tuple[str, int]:
    """Where tor speaks SOCKS on loopback and keeps credentials apart. Raises ControlRefused."""
    options = session.socks_options()
    for flag in ("NoIsolateSOCKSAuth", "PreferSOCKSNoAuth"):
        if flag in options:
            raise ControlRefused(
                f"the SocksPort of the tor at {session.address} puts everything on one circuit",
                f"take {flag} out of its torrc",
            )
    for host, port in session.socks_listeners():
        if host == "127.0.0.1":
            return host, port
    raise ControlRefused(
        f"the tor at {session.address} has no SocksPort on 127.0.0.1",
        "put SocksPort 9050 into its torrc and reload it",
    )


async def _stop(process: "subprocess.Popen[bytes] | None") -> None:
    """Waits until our own tor has ended, which closing its session made it do."""
    if process is None:
        return
    with trio.CancelScope(shield=True):
        try:
            await trio.to_thread.run_sync(process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            await trio.to_thread.run_sync(process.wait)
