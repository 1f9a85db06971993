"""``mount.cbfs``: mount an account, return when the mount answers, end cleanly.

Also a helper of mount(8): ``/sbin/mount.cbfs SPEC DIR [-sfnv] [-o OPTIONS]``.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from cbfs.account.account import SYSTEM_RANDOM, asks_for_passphrase
from cbfs.account.passphrase import unlocking
from cbfs.account.place import new_log
from cbfs.commands.mount_options import MountOptions, parse
from cbfs.commands.process import memory
from cbfs.commands.process.daemon import daemonised
from cbfs.commands.process.entry import PROGRAM
from cbfs.commands.process.logs import LogFile, log_into
from cbfs.engine.running import running
from cbfs.mount import lifecycle, single_process
from cbfs.mount.lifecycle import MountPlace, prepare, stop_event
from cbfs.mount.mount_table import source_of
from cbfs.mount.view import MountView
from cbfs.network.access import run
from cbfs.tree.processes import ProcFS
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import complain

_log = logging.getLogger(__name__)

FAILED, USAGE, FAILED_FOR_MOUNT = 1, 2, 32


def main() -> int:
    """The entry point."""
    memory.protect()
    by_mount = _called_by_mount()
    try:
        options, fake = parse(sys.argv[1:])
        if by_mount and _is_there(options):
            return 0  # mount -a once more
        prepare(options.mountpoint)
        if options.network.no_tor:
            print("cbfs: without Tor: only servers on this machine can be reached", file=sys.stderr)
        if fake:
            return 0
        options = _unlocked(options)
        if options.foreground:
            return _in_the_foreground(options)
        return daemonised(lambda ready, log: _serve(options, ready, log))
    except CbfsError as error:
        complain(PROGRAM, str(error), error.hint)
        return FAILED_FOR_MOUNT if by_mount else FAILED


def _in_the_foreground(options: MountOptions) -> int:
    log = LogFile("cbfs: %(message)s")
    log.into(os.dup(2))
    log_into(log)
    try:
        _serve(options, lambda: None, log)
    finally:
        logging.shutdown()
    return 0


def _unlocked(options: MountOptions) -> MountOptions:
    """With the passphrase, when the account takes one: the terminal is here, not in the daemon."""
    if options.only:
        return options  # its daemon has it open
    if not asks_for_passphrase(options.account):
        return replace(options, unlock=unlocking(options.passphrase.once))
    passphrase = options.passphrase.once()
    return replace(options, unlock=unlocking(lambda: passphrase))


def _called_by_mount() -> bool:
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text().strip() == "mount"
    except OSError:
        return False


def _is_there(options: MountOptions) -> bool:
    """Whether this very account is mounted there, by a daemon that lives."""
    try:
        os.statvfs(options.mountpoint)
    except OSError:
        return False
    return source_of(options.mountpoint) == options.source


def _serve(options: MountOptions, ready: Callable[[], None], log: LogFile) -> None:
    """Until unmounted. Raises CbfsError when the mount cannot be made."""
    memory.lock_present()
    run(_until_stopped, options, ready, log)


async def _until_stopped(options: MountOptions, ready: Callable[[], None], log: LogFile) -> None:
    """A signal that comes before there is a mount gives up what was done for it."""

    def begin_log() -> None:
        if not options.foreground and not options.only:
            log.into(new_log(options.account))

    def hang_up() -> None:
        try:
            begin_log()
        except CbfsError as error:  # the one that there was is written on
            _log.error("%s", error.in_full)

    stop = stop_event(None if options.foreground else hang_up)
    mounted = trio.Event()

    async def give_up(scope: trio.CancelScope) -> None:
        await stop.wait()
        if not mounted.is_set():
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up, nursery.cancel_scope)
        if options.only:
            await single_process.serve(_place(options), options.only, ready, stop, mounted)
        else:
            await _run(options, ready, begin_log, stop, mounted)
        nursery.cancel_scope.cancel()
    if not mounted.is_set():
        raise CbfsError("it was told to end before there was a mount")


async def _run(
    options: MountOptions,
    ready: Callable[[], None],
    begin_log: Callable[[], None],
    stop: trio.Event,
    mounted: trio.Event,
) -> None:
    """Run the engine, and mount what it has, until unmounted or ``stop`` is set."""

    def has_mounted() -> None:
        mounted.set()
        memory.look_less_for_cycles()

    async with (
        running(options.account, options.network, options.unlock) as engine,
        trio.open_nursery() as nursery,
    ):
        begin_log()  # the account is ours alone from here on
        memory.lock_future()
        view = MountView(engine, ProcFS(), options.grace, nursery, options.sync_send)
        engine.attach(view)  # at once: what arrives from now on is not in the tree yet
        place = _place(options)
        await lifecycle.serve(view, place, SYSTEM_RANDOM, nursery, stop, has_mounted, ready)
        nursery.cancel_scope.cancel()


def _place(options: MountOptions) -> MountPlace:
    return MountPlace(options.account, options.mountpoint, options.fuse)


if __name__ == "__main__":
    sys.exit(main())
