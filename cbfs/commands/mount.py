"""``mount.cbfs``: mount an account, return when the mount answers, end cleanly.

Also a helper of mount(8): ``/sbin/mount.cbfs SPEC DIR [-sfnv] [-o OPTIONS]``.
"""

import argparse
import difflib
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyfuse3
import trio

from cbfs.account.account import SYSTEM_RANDOM, asks_for_passphrase, default_account, no_lock
from cbfs.account.passphrase import PassphraseSource, unlocking
from cbfs.account.place import check_account, check_way, new_log
from cbfs.account.settings import GRACE_MAX
from cbfs.commands.mountpoints import account_of
from cbfs.commands.process import memory
from cbfs.commands.process.daemon import daemonised
from cbfs.commands.process.entry import PROGRAM
from cbfs.commands.process.logs import Log, log_into
from cbfs.engine.running import running
from cbfs.mount import single_process
from cbfs.mount.mount_table import WINDOW_SOURCE, become, device_of, fuse_source, source_of, unmount
from cbfs.mount.notifier import Revealer
from cbfs.mount.operations import Operations
from cbfs.mount.single_process import WindowOptions
from cbfs.mount.single_server import WindowServer
from cbfs.mount.stopping import stop_event, unmount_at
from cbfs.mount.view import MountView
from cbfs.network.access import NetworkOptions, run
from cbfs.network.tor.config import TorOptions
from cbfs.outbox.sync_send import LIMIT, LIMIT_MAX
from cbfs.storage.faults import harmless
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Store
from cbfs.tree.nodes import PROFILE, STATUS, Text
from cbfs.tree.nodes import README as README_INODE
from cbfs.tree.processes import ProcFS
from cbfs.tree.restore import empty_tmp, restore
from cbfs.tree.texts import README, profile_text
from cbfs.tree.times import settle_times, shown
from cbfs.tree.tree import Tree
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import complain

_log = logging.getLogger(__name__)

FAILED, USAGE, FAILED_FOR_MOUNT = 1, 2, 32

_IGNORED = frozenset(
    (
        "rw",
        "user",
        "users",
        "owner",
        "group",
        "noauto",
        "auto",
        "nofail",
        "_netdev",
        "nosuid",
        "nodev",
        "noexec",
        "suid",
        "dev",
        "exec",
        "defaults",
        "relatime",
        "noatime",
        "atime",
        "sync",
        "async",
    )
)
"""What mount(8) passes that does not concern us."""

_VALUES = {
    "grace": "SECONDS",
    "sync_send": "SECONDS",
    "tor": "ADDRESS",
    "bridges": "FILE",
    "torrc": "FILE",
    "passphrase_fd": "N",
    "uid": "USER",
    "only": "CONVERSATION",
}
"""Words of ``-o`` that have a value, and what it is."""

_WORD = re.compile(r"(?:[^,\\]|\\.|\\\Z)+", re.DOTALL)

_EXAMPLES = """examples:
  mount.cbfs ~/chat                      the account in ~/.local/share/cbfs
  mount.cbfs ~/bots/alerts ~/alerts -o grace=0
  fusermount3 -u ~/chat
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    account: Path
    mountpoint: Path
    foreground: bool
    grace: float | None
    network: NetworkOptions
    fuse: frozenset[str]
    asking: PassphraseSource
    only: str = ""
    sync_send: float = 0
    unlock: Unlock = no_lock

    @property
    def source(self) -> str:
        """What the table of mounts says is mounted."""
        return WINDOW_SOURCE if self.only else str(self.account)


def main() -> int:
    """The entry point."""
    memory.protect()
    by_mount = _called_by_mount()
    try:
        options, fake = _parse(sys.argv[1:])
        if by_mount and _is_there(options):
            return 0  # mount -a once more
        _prepare(options.mountpoint)
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


def _in_the_foreground(options: Options) -> int:
    log = Log("cbfs: %(message)s")
    log.into(os.dup(2))
    log_into(log)
    try:
        _serve(options, lambda: None, log)
    finally:
        logging.shutdown()
    return 0


def _unlocked(options: Options) -> Options:
    """With the passphrase, when the account takes one: the terminal is here, not in the daemon."""
    if options.only:
        return options  # its daemon has it open
    if not asks_for_passphrase(options.account):
        return replace(options, unlock=unlocking(options.asking.once))
    passphrase = options.asking.once()
    return replace(options, unlock=unlocking(lambda: passphrase))


def _called_by_mount() -> bool:
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text().strip() == "mount"
    except OSError:
        return False


def _parse(arguments: list[str]) -> tuple[Options, bool]:
    """(the options, whether mount(8) asks for a dry run). Exits with 2 for wrong usage. Becomes
    the user that ``uid`` names, whose default account it then is. Raises CbfsError."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if len(given.paths) > 2:
        parser.error("at most an account and a mountpoint")
    words = _words(parser, given)
    for key in ("tor", "bridges", "torrc"):
        if vars(given)[key]:
            words.tor[key] = vars(given)[key]
    account = Path(given.paths[0]) if len(given.paths) == 2 else default_account()
    if words.only and words.sync_send:
        parser.error("sync_send belongs to the mount of the account, not to only=CONVERSATION")
    if words.only:
        account = account_of(account)
    mountpoint = Path(os.path.abspath(given.paths[-1]))  # noqa: PTH100
    check_way(mountpoint)
    mountpoint = Path(os.path.realpath(mountpoint))
    account = Path(os.path.abspath(account))  # noqa: PTH100 - as it is given: mount -a compares it
    check_account(account)
    return (
        Options(
            account,
            mountpoint,
            given.foreground,
            words.grace,
            NetworkOptions(words.no_tor, _tor_options(words.tor)),
            frozenset(words.fuse),
            words.asking,
            words.only,
            words.sync_send,
        ),
        given.fake,
    )


@dataclass(slots=True)
class _Words:
    """What ``-o`` says."""

    no_tor: bool
    grace: float | None = None
    tor: dict[str, str] = field(default_factory=dict)
    asking: PassphraseSource = field(default_factory=PassphraseSource)
    only: str = ""
    sync_send: float = 0
    fuse: set[str] = field(default_factory=set)


def _words(parser: argparse.ArgumentParser, given: argparse.Namespace) -> _Words:
    found = _Words(given.no_tor)
    for word in _separate(given.words):
        key, _, value = word.partition("=")
        if key == "grace":
            found.grace = _seconds(parser, "grace", value, 0, GRACE_MAX)
        elif key == "sync_send":
            given_seconds = value or f"{LIMIT:.0f}"
            found.sync_send = _seconds(parser, "sync_send", given_seconds, 1, LIMIT_MAX)
        elif key == "only":
            found.only = value or parser.error("only=CONVERSATION takes the name of one")
        elif key == "uid" and value:
            become(value)
        elif key in {"tor", "bridges", "torrc"} and value:
            found.tor[key] = value
        elif key == "passphrase_fd":
            if not value.isdecimal() or len(value) > 9:
                parser.error("passphrase_fd=N takes the number of a descriptor")
            found.asking = PassphraseSource(int(value))
        elif word == "no_tor":
            found.no_tor = True
        elif word in {"allow_other", "allow_root"}:
            found.fuse.add(word)
        elif word and key not in _IGNORED and not word.startswith("x-"):
            parser.error(_unknown(word, key))
    return found


def _separate(given: list[str]) -> Iterator[str]:
    """The words of all ``-o``. As for fuse(8), a comma or a backslash in a word has a backslash
    before it."""
    for words in given:
        for found in _WORD.finditer(words):
            yield re.sub(r"\\([\\,])", r"\1", found[0])


def _unknown(word: str, key: str) -> str:
    if key in _VALUES:
        return f"-o {key}={_VALUES[key]} takes a value"
    meant = difflib.get_close_matches(key, [*_VALUES, "no_tor", "allow_other", "allow_root"], 1)
    if not meant:
        return f"unknown option: -o {word}"
    value = f"={_VALUES[meant[0]]}" if meant[0] in _VALUES else ""
    return f"unknown option: -o {word}; is it -o {meant[0]}{value} that you mean?"


def _seconds(
    parser: argparse.ArgumentParser, key: str, text: str, least: float, most: float
) -> float:
    try:
        seconds = float(text)
    except ValueError:
        parser.error(f"{key}=SECONDS takes a number")
    if not least <= seconds <= most:
        parser.error(f"{key}=SECONDS is between {least:.0f} and {most:.0f}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mount.cbfs",
        usage="mount.cbfs [ACCOUNT] MOUNTPOINT [-o OPTIONS] [--foreground] [--no-tor]",
        description="Mount a cbfs account: conversations/ to read, outbox/ to write into.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help=argparse.SUPPRESS)
    parser.add_argument(
        "-o",
        action="append",
        default=[],
        metavar="OPTIONS",
        dest="words",
        help="grace=SECONDS (in the place of that in config.toml), sync_send[=SECONDS] (fsync of a"
        " file in the outbox returns when the servers have it), no_tor,"
        " tor=ADDRESS (the control socket or HOST:PORT of the tor to use, or own), bridges=FILE,"
        " torrc=FILE, passphrase_fd=N (read the passphrase from that descriptor),"
        " uid=USER (root mounts as that user), allow_other, only=CONVERSATION (nothing but that"
        " one, of an account that is mounted; ACCOUNT may be its mountpoint), and what mount(8)"
        " passes",
    )
    parser.add_argument("--foreground", action="store_true", help="stay, and log to stderr")
    parser.add_argument(
        "--no-tor", action="store_true", help="plain TCP, to loopback addresses only"
    )
    parser.add_argument("--tor", metavar="ADDRESS", help="as -o tor=ADDRESS")
    parser.add_argument("--bridges", metavar="FILE", help="as -o bridges=FILE")
    parser.add_argument("--torrc", metavar="FILE", help="as -o torrc=FILE")
    for flag in ("-s", "-n", "-v"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-f", action="store_true", dest="fake", help=argparse.SUPPRESS)
    parser.add_argument("-N", "-t", dest="ignored", help=argparse.SUPPRESS)
    return parser


def _tor_options(words: dict[str, str]) -> TorOptions:
    def path(key: str) -> Path | None:
        return Path(words[key]).absolute() if key in words else None

    control = words.get("tor", "")
    if "/" in control:  # the daemon works elsewhere
        control = str(Path(control).absolute())
    return TorOptions(control, path("bridges"), path("torrc"))


def _is_there(options: Options) -> bool:
    """Whether this very account is mounted there, by a daemon that lives."""
    try:
        os.statvfs(options.mountpoint)
    except OSError:
        return False
    return source_of(options.mountpoint) == options.source


def _prepare(mountpoint: Path) -> None:
    """Raises CbfsError for a place where nothing can be mounted; cleans up a dead mount."""
    try:
        os.statvfs(mountpoint)  # stat may still be answered by the kernel for a dead mount
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise CbfsError(
                f"cannot mount on {mountpoint}: {(error.strerror or '').lower()}",
                f"make it: mkdir -p {mountpoint}",
            ) from error
        if not unmount(mountpoint, lazy=True):
            raise CbfsError(
                f"the mount on {mountpoint} is dead, and cannot be removed",
                f"see: fusermount3 -uz {mountpoint}",
            ) from error
    if not mountpoint.is_dir():
        raise CbfsError(f"{mountpoint} is not a directory", "name one that is")
    if mountpoint.is_mount():
        raise CbfsError(
            f"something is mounted on {mountpoint} already",
            f"unmount it first: fusermount3 -u {mountpoint}",
        )
    if not Path("/dev/fuse").exists():
        raise CbfsError("there is no /dev/fuse", "load the kernel module: modprobe fuse")


def _serve(options: Options, ready: Callable[[], None], log: Log) -> None:
    """Until unmounted. Raises CbfsError when the mount cannot be made."""
    memory.lock_present()
    run(_until_stopped, options, ready, log)


async def _until_stopped(options: Options, ready: Callable[[], None], log: Log) -> None:
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
            where = WindowOptions(options.account, options.mountpoint, options.only, options.fuse)
            await single_process.serve(where, ready, stop, mounted)
        else:
            await _run(options, ready, begin_log, stop, mounted)
        nursery.cancel_scope.cancel()
    if not mounted.is_set():
        raise CbfsError("it was told to end before there was a mount")


async def _run(
    options: Options,
    ready: Callable[[], None],
    begin_log: Callable[[], None],
    stop: trio.Event,
    mounted: trio.Event,
) -> None:
    async with (
        running(options.account, options.network, options.unlock) as engine,
        trio.open_nursery() as nursery,
    ):
        begin_log()  # the account is ours alone from here on
        memory.lock_future()
        view = MountView(engine, ProcFS(), options.grace, nursery, options.sync_send)
        engine.attach(view)  # at once: what arrives from now on is not in the tree yet
        _texts(view, engine.name, profile_text(engine.name, engine.profile))
        await engine.store.commit(restore(view.tree))
        view.tree.config.bring_back()
        await view.tree.config.settle()
        with engine.store.read() as reader:
            settle_times(reader, shown(view.tree.root))
        operations = Operations(view, ProcFS(), options.account)
        _init(operations, options)
        mounted.set()
        device = device_of(options.mountpoint)
        memory.look_less_for_cycles()
        answering = Answering(operations.ended)
        try:
            nursery.start_soon(unmount_at, stop, device, operations.ended)
            nursery.start_soon(answering.run)
            await _live(options, view, operations, nursery)
            nursery.start_soon(view.run)
            await nursery.start(WindowServer(view, options.account, SYSTEM_RANDOM).run)
            ready()
            await operations.ended.wait()
        finally:
            with trio.CancelScope(shield=True):
                if operations.revealer:
                    await operations.revealer.close()
                    view.watchers.revealer = None
                await answering.end()
                await _keep(engine.store, view, operations)
            pyfuse3.close(unmount=device_of(options.mountpoint) == device)
        nursery.cancel_scope.cancel()


class Answering:
    """The loop that answers the kernel, which can be ended while somebody still asks."""

    def __init__(self, ended: trio.Event) -> None:
        """``ended`` is set when it has ended, or is to."""
        self._ended = ended
        self._scope = trio.CancelScope()
        self._over: trio.Event | None = None

    async def run(self) -> None:
        """Until the mount has ended."""
        self._over = trio.Event()
        try:
            with self._scope:
                await pyfuse3.main()
        finally:
            self._ended.set()
            self._over.set()

    async def end(self) -> None:
        """Answer nothing more."""
        self._scope.cancel()
        if self._over is not None:
            await self._over.wait()


async def _keep(store: Store, view: MountView, operations: Operations) -> None:
    """At the end. What the disk does not take is logged; the next mount empties tmp/ as well."""
    with harmless():
        await operations.save_open()
    with harmless():
        await view.search_folders.unread.flush()
    with harmless():
        await store.commit(view.tree.keep_times())
    with harmless():
        await store.commit(empty_tmp(view.tree))


def _texts(view: MountView, name: str, profile: str) -> None:
    tree: Tree = view.tree
    started = view.status.changed_ns
    tree.root.add("status", Text(STATUS, view.status.render, started))
    tree.root.add("README", Text(README_INODE, README.encode, started))
    tree.root.add("profile.toml", Text(PROFILE, profile.encode, started))


def _init(operations: Operations, options: Options) -> None:
    source = fuse_source(options.account)
    fuse_options = {source, "subtype=cbfs", "nosuid", "nodev", "noexec"}
    fuse_options |= {"default_permissions"} | options.fuse
    try:
        pyfuse3.init(operations, str(options.mountpoint), fuse_options)
    except RuntimeError as error:
        raise CbfsError(
            f"cannot mount on {options.mountpoint}",
            "is it yours, and may you use /dev/fuse? try with --foreground to see more",
        ) from error


async def _live(
    options: Options,
    view: MountView,
    operations: Operations,
    nursery: trio.Nursery,
) -> None:
    """Wait until the mount answers."""
    operations.revealer = Revealer(options.mountpoint, view.failed)
    view.watchers.revealer = operations.revealer  # what arrives from now on waits for its start
    await nursery.start(operations.revealer.run)


if __name__ == "__main__":
    sys.exit(main())
