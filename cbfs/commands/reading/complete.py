"""``cbfs complete``: what a shell may complete a word by, from a mount. It is asked with each Tab,
so it looks at names of folders and at nothing else, says nothing where there is no mount, and never
fails: a shell would print that into the line that is being typed.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cbfs.account.place import default_account
from cbfs.mount.mount_table import mountpoints_of
from cbfs_common.errors import CbfsError

WORDS_MAX = 1_000
"""Words that are printed, at most."""

_FOLDERS = {
    "contacts": ("contacts",),
    "conversations": ("conversations",),
    "recipients": ("contacts", "conversations"),
}
"""For each kind of words the folders of a mount whose folders have these names."""


def add_complete(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs complete`` takes."""
    parser.description = "Prints the words that begin so, a line each; nothing when there are none."
    parser.add_argument("kind", choices=(*_FOLDERS, "mounts"), metavar="KIND")
    parser.add_argument("begin", nargs="?", default="", metavar="BEGINNING")
    parser.add_argument("--mount", type=Path, metavar="MOUNT", help="default: where you have one")
    parser.set_defaults(run=_complete)


def _complete(options: argparse.Namespace) -> int:
    words = sorted(set(_words(options.kind, options.mount)))
    for word in islice((each for each in words if each.startswith(options.begin)), WORDS_MAX):
        sys.stdout.write(f"{word}\n")
    return 0


def _words(kind: str, mount: Path | None) -> Iterator[str]:
    mounts = [mount] if mount is not None else _own_mounts()
    if kind == "mounts":
        yield from map(str, mounts)
        return
    for place in mounts[:1]:
        for folder in _FOLDERS[kind]:
            yield from _names(place / folder)


def _own_mounts() -> list[Path]:
    """Where the default account is mounted."""
    try:
        return mountpoints_of(default_account())
    except (CbfsError, OSError):
        return []


def _names(folder: Path) -> Iterator[str]:
    """The folders in one, by names that have one line each."""
    try:
        with os.scandir(folder) as found:
            for each in found:
                if each.is_dir() and each.name.isprintable():
                    yield each.name
    except OSError:
        return
