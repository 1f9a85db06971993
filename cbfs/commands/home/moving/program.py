"""``cbfs move``: on the old computer it prints a line and waits; on the new one it takes that line,
and the account is there, and lives there only."""

import argparse
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from cbfs.account.account import (
    SYSTEM_RANDOM,
    load_account,
    locked,
    opened_store,
    protection_of,
)
from cbfs.account.claim import Marker
from cbfs.account.leaving import (
    AccountMoved,
    Leaving,
    LeavingStage,
    begin_leaving,
    forget_leaving,
    read_leaving,
    write_leaving,
)
from cbfs.account.passphrase import unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import ARRIVING, check_account
from cbfs.account.spool import Spool
from cbfs.commands.account import add_old_passphrase, tell_ready
from cbfs.commands.home.line import print_line, read_line
from cbfs.commands.home.moving.cargo import ROOT, SERVER, AccountDeparture
from cbfs.commands.home.moving.held import IncomingCopy, LivingCopy
from cbfs.commands.home.moving.meeting import WAIT_TIMEOUT, OldComputer, come
from cbfs.commands.mountpoints import remove_tree
from cbfs.commands.online import reached
from cbfs.commands.options import add_account, add_network, network_options, say
from cbfs.commands.process.running import run
from cbfs.commands.reading.progress import shown_progress
from cbfs.context import milliseconds
from cbfs.mount.mount_table import mounts_below
from cbfs.network.access import Network
from cbfs.network.dial import DialError, check_loopback
from cbfs.network.options import NetworkOptions
from cbfs.receiving.copies import TOLD, notice_copy
from cbfs.storage.root_key import ProtectionKind
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError, TransportError, in_words
from cbfs_common.wire.move_line import MoveLine, parse_move_line
from cbfs_host.files import make_directory, take_lock
from cbfs_host.listening import Place, listen, parse_place

GIVEN: Final = "-"
"""What stands for a line that is read, so that no list of processes has it."""

_MAY_BE_THERE: Final = frozenset(("lock", "log", "tor", ARRIVING, "lost+found"))
"""In a directory into which an account comes. Else it would be written over what is left of another
one, whose root file may be elsewhere."""

_CANCEL: Final = "cbfs move --cancel"
_ANYWHERE: Final = Place("127.0.0.1", 0)
_ASK: Final = "The line that cbfs move has printed on the old computer: cbfs-move:..."
_MOVED: Final = """The account has moved, and lives on the new computer.
What is in {place} is a backup, and does not mount any more.
To erase it: cbfs move --erase --account {place}
"""


def add_move(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs move`` takes."""
    parser.description = (
        "Moves an account to another computer. On the old one, where it is not mounted: cbfs move,"
        " which prints a line and waits. On the new one: cbfs move, which asks for that line. What"
        " was cut off goes on when both are run again."
    )
    parser.add_argument(
        "line",
        nargs="?",
        metavar="-",
        help="on the new computer: read the line that the old one has printed from standard input;"
        " on a terminal it is asked for",
    )
    add_account(parser)
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="with --no-tor, on the old computer: where it waits (default: 127.0.0.1:0)",
    )
    after = parser.add_mutually_exclusive_group()
    after.add_argument(
        "--cancel",
        action="store_true",
        help="the account stays here, and its line is good for nothing any more",
    )
    after.add_argument(
        "--erase", action="store_true", help="erase what is here of an account that has moved"
    )
    add_old_passphrase(parser)
    add_network(parser)
    parser.set_defaults(run=_move, usage=parser.error)


def _move(options: argparse.Namespace) -> int:
    place: Path = options.account.absolute()
    if options.listen and not options.no_tor:
        options.usage("--listen is for trying out, with --no-tor: an onion service needs none")
    if options.line not in (None, GIVEN):
        options.usage(
            "a line is not given as a word, as others see that in the list of processes: type cbfs"
            " move, and paste the line when it is asked for"
        )
    if options.line and (options.cancel or options.erase or options.listen):
        options.usage("--cancel, --erase and --listen are for the old computer, without a line")
    check_account(place)
    account = (place / ROOT).exists()
    if account and (place / ARRIVING).exists():
        _finish(place, options)  # what was cut off in the last step
        return 0
    if not options.line and (account or options.cancel or options.erase):
        return _leave(place, options)
    if account:
        raise CbfsError(
            f"there is an account in {place} already", "choose another directory with --account"
        )
    return _arrive(place, options)


# On the old computer


def _leave(place: Path, options: argparse.Namespace) -> int:
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    with opened_store(place, SYSTEM_RANDOM, unlock, has_moved=True) as store:
        with store.read() as reader:
            leaving, finished = read_leaving(reader), reader.get(Table.META, Meta.OWN) is not None
        if load_account(store) is None or not finished:
            raise CbfsError(
                f"the account in {place} is not finished", "run the same cbfs init again"
            )
        stage = leaving.stage if leaving else None
        if options.cancel:
            return _cancel(store, stage)
        if not options.erase:
            if stage is LeavingStage.LIVES:
                sys.stdout.write(_MOVED.format(place=place))
                return 0
            if stage is None or stage is LeavingStage.OFFERED:
                _notice_copy(place, store)
            _offer(place, store, leaving, options)
            sys.stdout.write(_MOVED.format(place=place))
            return 0
        if stage is not LeavingStage.LIVES:
            raise CbfsError(
                "that the account lives on a new computer is not known here",
                f"run cbfs move here and there first; or, if you have seen it there: rm -r {place}",
            )
    return _erase(place)


def _notice_copy(place: Path, store: Store) -> None:
    """What lies in another file than when it was last mounted is a copy, and stays one by a move:
    its sessions are given up, as a mount does it."""
    account = load_account(store)
    if account is not None:
        marker = Marker(account.transport, SYSTEM_RANDOM)
        if notice_copy(store, place, marker, milliseconds()):
            say(TOLD)


def _cancel(store: Store, stage: LeavingStage | None) -> int:
    if stage in (LeavingStage.MOVED, LeavingStage.LIVES):
        raise AccountMoved
    store.write(forget_leaving)
    sys.stdout.write("The account stays here: mount it. What the new computer has is no account.\n")
    return 0


def _erase(place: Path) -> int:
    """Overwrite the root file, without which nothing can be read, and remove the rest."""
    if mounts := mounts_below(place):
        raise CbfsError(f"something is mounted on {mounts[0]}", f"fusermount3 -u {mounts[0]}")
    with locked(place):
        root = place / ROOT
        try:
            with root.open("r+b", buffering=0) as file:
                file.write(bytes(root.stat().st_size))
                os.fsync(file.fileno())
        except OSError as error:
            raise CbfsError(
                f"cannot erase {root}: {in_words(error)}", "is it yours, and the disk writable?"
            ) from error
        remove_tree(place)
    sys.stdout.write(f"{place} is erased.\n")
    return 0


def _offer(place: Path, store: Store, leaving: Leaving | None, options: argparse.Namespace) -> None:
    """Wait for the new computer, until the account lives there. Raises CbfsError."""
    if protection_of(place) is ProtectionKind.KEYRING:
        raise CbfsError(
            "the account is protected by the keyring of this desktop, which stays here",
            f"give it a passphrase first: cbfs passphrase {place}",
        )
    network = network_options(options)
    spool = Spool(place)
    with ExitStack() as stack:
        listener = stack.enter_context(_listener(leaving, options))
        if leaving is None:
            host, port = listener.getsockname()[:2] if network.no_tor else ("", 0)
            leaving = begin_leaving(SYSTEM_RANDOM, host, port)
            made = leaving
            store.write(lambda writer: write_leaving(writer, made))
        line = MoveLine(leaving.secret, leaving.host, leaving.port)
        try:
            if spool.path.exists():
                if not spool.acquire(alone=True):
                    raise CbfsError("a program is just leaving messages", "try again in a moment")
                stack.callback(spool.release)
            if (place / SERVER).is_dir():
                descriptor, ours = take_lock(place / SERVER)
                stack.callback(os.close, descriptor)
                if not ours:
                    raise CbfsError(
                        "the account's own server still runs", "wait until it has ended, or end it"
                    )
            departure = AccountDeparture(place, store, leaving)
            if leaving.stage is not LeavingStage.OFFERED:
                departure.close_spool()
        except OSError as error:
            raise CbfsError(
                f"cannot read {place}: {in_words(error)}", "is it yours, and readable?"
            ) from error
        bar = stack.enter_context(shown_progress("sending", departure.offer.size))

        def tell(text: str) -> None:
            bar.end()
            say(text)

        waiting = OldComputer(line, departure, lambda done, _size: bar.at(done), tell)
        try:
            run(_wait, place, network, line, listener, waiting)
        except OSError as error:
            raise CbfsError(
                f"the account cannot be read: {in_words(error)}", "run cbfs move again"
            ) from error


def _listener(leaving: Leaving | None, options: argparse.Namespace) -> socket.socket:
    """A socket where the new computer, or Tor, comes to. Raises CbfsError."""
    if leaving is not None and bool(leaving.host) != options.no_tor:
        way = "--no-tor" if leaving.host else "without --no-tor"
        raise CbfsError(f"the line of this move was made {way}", f"say the same, or: {_CANCEL}")
    if not options.no_tor:
        return listen(_ANYWHERE)
    if leaving is not None:
        return listen(Place(leaving.host, leaving.port))
    place = parse_place(options.listen, 0) if options.listen else _ANYWHERE
    check_loopback(place.host)
    return listen(place)


def _show(line: MoveLine) -> None:
    """Give the line to the user, as soon as it is good for something."""
    print_line(line.text())
    say(
        "on the new computer: cbfs move, and this line. Whoever has it can take the account, until"
        f" it has moved. This waits for {WAIT_TIMEOUT / 60:.0f} minutes"
    )


async def _wait(
    place: Path,
    options: NetworkOptions,
    line: MoveLine,
    listening: socket.socket,
    waiting: OldComputer,
) -> None:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))

    async def steps(network: Network) -> None:
        async with _published(network, line, listening):
            _show(line)
            await waiting.until_moved(listener)

    await reached(place, options, say, steps)


@asynccontextmanager
async def _published(
    network: Network, line: MoveLine, listening: socket.socket
) -> AsyncIterator[None]:
    """What listens can be reached by the line. Raises OnionError."""
    if network.tor is None:
        yield
        return
    # read in only here: without Tor nothing needs stem
    from cbfs_host.onion import Onion  # noqa: PLC0415
    from cbfs_host.onion_service import published  # noqa: PLC0415

    onion = Onion(line.service, control=network.tor.control)
    async with published(onion, Place(*listening.getsockname()[:2])):
        yield


# On the new computer


def _arrive(place: Path, options: argparse.Namespace) -> int:
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    if IncomingCopy(place, unlock).lives:
        _finish(place, options)
        return 0
    line = parse_move_line(_given(options))
    fresh = not place.exists()
    network = network_options(options)
    _check_empty(place)
    with _told_of(place):
        make_directory(place)
        place.chmod(0o700)
        with locked(place):
            held = IncomingCopy(place, unlock)
            try:
                try:
                    _fetch(place, line, held, network, held.unlock)
                except CbfsError as error:
                    if not held.lives:
                        raise
                    _say_unheard(error)
                held.put_in_place()
            finally:
                held.close()
                if fresh and not (place / ARRIVING).exists() and not (place / ROOT).exists():
                    with suppress(CbfsError):
                        remove_tree(place)
    tell_ready(held.name, place, options, "lives here now")
    return 0


def _finish(place: Path, options: argparse.Namespace) -> None:
    """Put an account in its place that lives here already. Who has the line can tell the old
    computer so, which has perhaps not heard it."""
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    line = parse_move_line(_given(options)) if options.line else None
    with _told_of(place), locked(place):
        held = IncomingCopy(place, unlock)
        arrived = held.arrived()
        held.put_in_place()
    tell_ready(held.name or "the account", place, options, "lives here now")
    if line is not None and arrived is not None:
        try:
            _fetch(place, line, arrived, network_options(options), lambda: None)
        except CbfsError as error:
            _say_unheard(error)


def _say_unheard(error: CbfsError) -> None:
    say(f"the old computer may not have heard that the account lives here: {error.in_full}")


@contextmanager
def _told_of(place: Path) -> Iterator[None]:
    """What the system has against a directory, in words."""
    try:
        yield
    except OSError as error:
        raise CbfsError(
            f"cannot write to {place}: {in_words(error)}",
            "is it yours, and is there room on the disk? run the same command again",
        ) from error


def _check_empty(place: Path) -> None:
    """Raises CbfsError for a directory that holds anything but what comes of an account."""
    try:
        others = {each.name for each in place.iterdir()} - _MAY_BE_THERE
    except FileNotFoundError:
        return
    except OSError as error:
        raise CbfsError(f"cannot use {place}: {in_words(error)}", "is it yours?") from error
    if others:
        raise CbfsError(
            f"{place} holds other files",
            "an account has a directory of its own: choose one with --account",
        )


def _given(options: argparse.Namespace) -> str:
    """The first line of standard input. Raises CbfsError."""
    if options.line is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        options.usage("missing: -, for a line on standard input; on a terminal it is asked for")
    return read_line(_ASK)


def _fetch(
    place: Path,
    line: MoveLine,
    arrival: IncomingCopy | LivingCopy,
    network: NetworkOptions,
    unlock: Callable[[], None],
) -> None:
    """Until the account lives here, and the old computer has been told so. Raises CbfsError."""
    with shown_progress("receiving", 0) as bar:
        most = -1

        def told(done: int, whole: int) -> None:
            nonlocal most
            most = max(most, done)
            bar.of(done, whole)

        def ask() -> None:
            bar.end()
            unlock()

        async def steps(way: Network) -> None:
            while True:
                before = most
                try:
                    await come(line, way.dialer, arrival, told, ask)
                except (DialError, TransportError) as error:
                    if way.tor is None or most <= before:
                        raise
                    bar.end()
                    say(f"{error.in_full}; trying again")
                else:
                    return

        run(reached, place, network, say, steps)
