"""``cbfs passphrase``, ``cbfs export`` and ``cbfs init --restore``: what they do to an account."""

import os
from collections.abc import Callable
from pathlib import Path

from cbfs.account.account import (
    ACCOUNT_ATTRIBUTE,
    SYSTEM_RANDOM,
    asks_for_passphrase,
    load_account,
    opened_store,
    salvaging,
)
from cbfs.account.passphrase import Asking, Guard, forget, unlocking
from cbfs.account.place import check_account, check_way
from cbfs.commands.export import Count, restore_export, write_export
from cbfs.mount.mount_table import mount_above
from cbfs_common.errors import CbfsError


def account_of(path: Path) -> Path:
    """The account directory that ``path`` is, or whose mount it is. Raises CbfsError."""
    check_way(path)
    try:
        if (path / "root.key").exists():
            return path
    except OSError:
        check_account(path)  # says whose it is
        raise
    inside = mount_above(path)
    try:
        if inside is not None and inside.samefile(
            path
        ):  # what else has this attribute is no word of ours
            return Path(os.fsdecode(os.getxattr(path, ACCOUNT_ATTRIBUTE)))
    except OSError as error:
        raise CbfsError(
            f"the mount on {path} does not answer: {(error.strerror or '').lower()}",
            "mount it again, which cleans up; or name the account directory",
        ) from error
    raise CbfsError(
        f"{path} is neither a mount nor an account directory",
        f"it is in the mount on {inside}: name that" if inside else "name the one or the other",
    )


def change_protection(account: Path, asking: Asking, guard: Callable[[str], Guard]) -> None:
    """Protect an account that is not mounted by what ``guard`` gives for its name. Raises
    CbfsError. A crash leaves the old protection, or the new one."""
    with opened_store(account, SYSTEM_RANDOM, unlocking(asking.once)) as store:
        known = load_account(store)
        fresh = guard(known.name if known else "")
        forget(store.protect(fresh.protection, fresh.lock))


def export(account: Path, file: Path, asking: Asking, passphrase: Callable[[], bytes]) -> Count:
    """Export an account, mounted or not. Raises CbfsError."""
    check_account(account)
    own = asking.once() if asks_for_passphrase(account) else b""
    with salvaging(account, SYSTEM_RANDOM, unlocking(lambda: own)) as source:
        return write_export(source, file, passphrase(), SYSTEM_RANDOM)


def restore(
    account: Path, file: Path, passphrase: bytes, asking: Asking, guard: Callable[[], Guard]
) -> str:
    """Make an account directory from an export; the account's name. Raises CbfsError."""
    with opened_store(account, SYSTEM_RANDOM, unlocking(asking.once), create=guard) as store:
        if load_account(store) is not None:
            raise CbfsError(
                f"there is an account in {account} already", "choose another with --account"
            )
        restore_export(store, file, passphrase)
        restored = load_account(store)
    return restored.name if restored else ""
