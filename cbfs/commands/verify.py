"""``cbfs verify``: a contact's fingerprint is compared through a mount, by the files that everybody
can use."""

import argparse
import errno
import os
import sys
from pathlib import Path

from cbfs.commands.mountpoints import is_in_a_mount, no_mount
from cbfs.contacts.user_names import typed_person
from cbfs.tree.rules import VERIFIED
from cbfs_common.errors import CbfsError


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs verify`` takes."""
    parser.add_argument("mountpoint", type=Path, metavar="MOUNT")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "fingerprint",
        nargs="*",
        metavar="FINGERPRINT",
        help="what the other side sees, words or digits (default: show it, and ask)",
    )
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    """Verify a contact through the mount, by the files that everybody can use; the exit code."""
    name = typed_person(options.name)
    folder = options.mountpoint / "contacts" / name
    if not is_in_a_mount(options.mountpoint):
        raise no_mount(options.mountpoint, None)
    try:
        text = (folder / "fingerprint").read_text(encoding="utf-8")
    except OSError as error:
        if not folder.parent.is_dir():
            raise no_mount(options.mountpoint, error) from error
        raise CbfsError(
            f"there is no contact {name} in {options.mountpoint}",
            "write to them once, or see contacts/ of the mount",
        ) from error
    said = " ".join(options.fingerprint)
    if not said:
        sys.stdout.write(text)
        print(f"\nDoes {name} see the same? Type yes to say so: ", end="", flush=True)
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise CbfsError(
                f"{name} is not verified", "compare again, in another way than this one"
            )
        said = text
    _write(folder / VERIFIED, said, name)
    print(f"{name} is verified.")
    return 0


def _write(path: Path, text: str, name: str) -> None:
    try:
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise CbfsError(
                f"this is not the fingerprint of {name}",
                "a slip of the tongue, or somebody is between you: compare again",
            ) from error
        raise CbfsError(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from error
