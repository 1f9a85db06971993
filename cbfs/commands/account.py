"""``cbfs passphrase``, ``cbfs export`` and ``cbfs init --restore``, and the options that they share
with ``cbfs init``."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from cbfs.account.account import (
    SYSTEM_RANDOM,
    load_account,
    opened_store,
    salvaging,
)
from cbfs.account.passphrase import (
    Guard,
    asks_for_passphrase,
    by_keyring,
    by_passphrase,
    forget,
    unlocking,
)
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import check_account
from cbfs.commands.export import Count, restore_export, write_export
from cbfs.commands.mountpoints import account_of
from cbfs.commands.reading.archive import add_archives, archive, is_archive
from cbfs.commands.reading.progress import shown_progress
from cbfs.receiving.lost_state import make_listings
from cbfs_common.errors import CbfsError


def add_protection(parser: argparse.ArgumentParser) -> None:
    """Add ``--passphrase``, ``--passphrase-fd`` and ``--keyring`` to a command."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--passphrase", action="store_true", help="ask for a passphrase that protects the account"
    )
    how.add_argument(
        "--passphrase-fd", type=int, metavar="N", help="the same, but read it from descriptor N"
    )
    how.add_argument(
        "--keyring", action="store_true", help="protect the account by the desktop's keyring"
    )


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs passphrase`` takes."""
    parser.description = "Asks for a new passphrase of an account that is not mounted."
    parser.add_argument("account", type=Path, metavar="ACCOUNT")
    add_protection(parser)
    parser.add_argument(
        "--remove",
        action="store_true",
        help="no protection: whoever has the directory can read everything",
    )
    add_old_passphrase(parser)
    parser.set_defaults(run=_passphrase, usage=parser.error)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs export`` takes."""
    parser.add_argument("place", type=Path, metavar="MOUNT", help="or the account directory")
    parser.add_argument(
        "file", type=Path, metavar="FILE", nargs="?", help="for cbfs init --restore, encrypted"
    )
    add_archives(parser)
    parser.add_argument(
        "--passphrase-fd",
        type=int,
        metavar="N",
        help="read the passphrase of the export from descriptor N",
    )
    add_old_passphrase(parser)
    parser.set_defaults(run=_export, usage=parser.error)


def add_old_passphrase(parser: argparse.ArgumentParser) -> None:
    """Add ``--account-passphrase-fd`` to a command."""
    parser.add_argument(
        "--account-passphrase-fd",
        type=int,
        metavar="N",
        help="read the passphrase that the account has from descriptor N",
    )


def guard(options: argparse.Namespace, name: str) -> Guard:
    """The protection that the options ask for."""
    if options.keyring:
        return by_keyring(name, SYSTEM_RANDOM)
    if options.passphrase or options.passphrase_fd is not None:
        return by_passphrase(PassphraseSource(options.passphrase_fd).twice(), SYSTEM_RANDOM)
    return Guard()


def _passphrase(options: argparse.Namespace) -> int:
    asked = options.passphrase or options.passphrase_fd is not None or options.keyring
    if options.remove and asked:
        options.usage("choose --remove or a new protection, not both")
    options.passphrase = options.passphrase or not (asked or options.remove)
    if options.account.is_mount():
        raise CbfsError(
            f"{options.account} is a mount", "unmount it, and name its account directory"
        )
    _change_protection(
        options.account,
        PassphraseSource(options.account_passphrase_fd),
        lambda name: guard(options, name),
    )
    print(
        "the account is protected in the new way"
        if not options.remove
        else "the passphrase is removed"
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    if (options.file is None) != is_archive(options):
        options.usage("name one FILE to write, or one of --mbox, --html and --jsonl")
    if is_archive(options):
        return archive(options)
    source = PassphraseSource(options.passphrase_fd, "passphrase of the export")
    count = _write_export(
        account_of(options.place),
        options.file.absolute(),
        PassphraseSource(options.account_passphrase_fd),
        source.twice,
    )
    print(f"{options.file}: {count.written} records")
    if count.damaged:
        print(
            f"cbfs: at least {count.damaged} records were damaged and are left out", file=sys.stderr
        )
    return 0


def restore(options: argparse.Namespace, account: Path) -> int:
    """Run ``cbfs init --restore``; the exit code."""
    if options.name or options.server or options.own_server or options.names:
        options.usage("leave out NAME, --server and --names: the export has them")
    passphrase = PassphraseSource(options.export_passphrase_fd, "passphrase of the export").once()
    name = _restore_export(
        account,
        options.restore,
        passphrase,
        PassphraseSource(options.passphrase_fd),
        lambda: guard(options, ""),
    )
    tell_ready(name, account, options)
    return 0


def tell_ready(
    name: str, account: Path, options: argparse.Namespace, how: str = "is ready"
) -> None:
    """Say that an account is made, and how to mount it, over the network that was asked for."""
    tail = " --no-tor" if options.no_tor else ""
    print(f"{name} {how}. Mount it: mount.cbfs {account} MOUNTPOINT{tail}")


def _change_protection(
    account: Path, source: PassphraseSource, guard: Callable[[str], Guard]
) -> None:
    """Protect an account that is not mounted by what ``guard`` gives for its name. Raises
    CbfsError. A crash leaves the old protection, or the new one."""
    with opened_store(account, SYSTEM_RANDOM, unlocking(source.once)) as store:
        known = load_account(store)
        fresh = guard(known.name if known else "")
        forget(store.protect(fresh.protection, fresh.lock))


def _write_export(
    account: Path, file: Path, source: PassphraseSource, passphrase: Callable[[], bytes]
) -> Count:
    """Export an account, mounted or not. Raises CbfsError."""
    check_account(account)
    own = source.once() if asks_for_passphrase(account) else b""
    with salvaging(account, SYSTEM_RANDOM, unlocking(lambda: own)) as records:
        key = passphrase()  # which a terminal asks for, before there is a bar on it
        with shown_progress("writing", 0) as bar:
            return write_export(
                records, file, key, SYSTEM_RANDOM, lambda done: bar.at(done, _megabytes(done))
            )


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.0f} MB"


def _restore_export(
    account: Path,
    file: Path,
    passphrase: bytes,
    source: PassphraseSource,
    guard: Callable[[], Guard],
) -> str:
    """Make an account directory from an export; the account's name. Raises CbfsError."""
    with opened_store(account, SYSTEM_RANDOM, unlocking(source.once), create=guard) as store:
        if load_account(store) is not None:
            raise CbfsError(
                f"there is an account in {account} already", "choose another with --account"
            )
        with shown_progress("restoring", file.stat().st_size if file.is_file() else 0) as bar:
            restore_export(store, file, passphrase, bar.at)
        make_listings(store)  # here, as it may take minutes, and a mount should not
        restored = load_account(store)
    return restored.name if restored else ""
