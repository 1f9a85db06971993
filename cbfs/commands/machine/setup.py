"""``cbfs setup``: what pipx and pip cannot put in its place is put there, and taken away again."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs.commands.machine.placed import Placed, PlacedKind, found, read_record, write_record
from cbfs.commands.machine.wanted import OwnFile, Places, places, wanted
from cbfs.commands.options import say
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import hint_of
from cbfs_host.files import write_beside_others

_YES: Final = ("y", "yes")


def add_setup(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs setup`` takes."""
    parser.description = (
        "For an installation by pipx or pip: puts manual pages, completions and units where your"
        " system looks for them, and with sudo the link for mount -t cbfs. Says first what it"
        " will do, and asks."
    )
    parser.add_argument(
        "--undo",
        action="store_true",
        help="take away what it has put there, unless that was changed since",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--no-link", action="store_true", help="leave /sbin/mount.cbfs alone, which takes sudo"
    )
    parser.set_defaults(run=_setup)


def _setup(options: argparse.Namespace) -> int:
    where = places()
    with _told():
        plan = removal(where) if options.undo else placing(where)
        if options.no_link:
            plan = plan.without_link()
        for line in plan.lines(where.home):
            print(line)
        if not plan.does_something:
            say("there is nothing to do")
            return 0
        if not options.yes and not _agreed():
            say("nothing was done")
            return 1
        return 0 if plan.carry_out(where) else 1


@dataclass(frozen=True, slots=True)
class Placing:
    """What is to be put where: ``files``, and the link that leads to ``target`` unless it is None.
    What is at the paths of ``kept`` is somebody else's and stays; ``known`` is the record."""

    files: tuple[OwnFile, ...]
    target: Path | None
    link: Path
    kept: tuple[Path, ...]
    known: frozenset[Placed]

    @property
    def does_something(self) -> bool:
        """Whether anything is to be put anywhere."""
        return bool(self.files or self.target)

    def without_link(self) -> "Placing":
        """All of it but for the link."""
        return Placing(self.files, None, self.link, self.kept, self.known)

    def lines(self, home: Path) -> Iterator[str]:
        """What will be done, for a person."""
        if self.files:
            yield "This is put there:"
        folders = dict.fromkeys((each.what, each.path.parent) for each in self.files)
        for what, folder in folders:
            names = [each.path.name for each in self.files if each.path.parent == folder]
            yield f"  {len(names)} {what} in {_shown(folder, home)}: {', '.join(names)}"
        if self.target:
            yield f"and as root, for mount -t cbfs and fstab: {self.link} -> {self.target}"
            yield "  (Root then runs a program that you can change; --no-link leaves it out.)"
        yield from _kept(self.kept, home, "it is not of cbfs setup, or was changed")

    def carry_out(self, where: Places) -> bool:
        """Put all of it there; whether that has worked. Raises OSError."""
        new = {Placed.file(each.path, each.data) for each in self.files}
        for path in (*(each.path for each in self.files), where.record):
            new |= {
                Placed(folder, PlacedKind.FOLDER) for folder in path.parents if not folder.exists()
            }
        if self.target:
            new.add(Placed.link(self.link, self.target))
        write_record(where.record, self.known | new)
        for each in self.files:
            each.path.parent.mkdir(parents=True, exist_ok=True)
            write_beside_others(each.path, each.data, 0o644)
        is_known = any(each.path == self.link for each in self.known)
        how = "-sfT" if is_known else "-sT"  # nobody else's is replaced that is there meanwhile
        linked = self.target is None or _as_root("ln", how, str(self.target), str(self.link))
        replaced = {each.path for each in new}
        current = {each for each in self.known if each.path not in replaced} | new
        if not linked:
            before = {each for each in self.known if each.path == self.link}
            current = {each for each in current if each.path != self.link} | before
        write_record(where.record, current)
        if any(each.what == "completions for zsh" for each in self.files) and shutil.which("zsh"):
            folder = _shown(where.data / "zsh" / "site-functions", where.home)
            say(f"for zsh, put this into ~/.zshrc, before compinit: fpath=({folder} $fpath)")
        if any(each.what == "units" for each in self.files):
            say("to mount ~/chat at login: systemctl --user daemon-reload, and then"
                " systemctl --user enable --now cbfs@chat")  # fmt: skip
        return linked


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be taken away: ``there`` is as it was put there, and ``kept`` was changed since;
    ``folders`` go when nothing else is in them."""

    there: tuple[Placed, ...]
    folders: tuple[Placed, ...]
    kept: tuple[Path, ...]
    stays: tuple[Placed, ...] = ()

    @property
    def does_something(self) -> bool:
        """Whether anything was put anywhere, and not taken away since."""
        return bool(self.there or self.folders or self.kept)

    def without_link(self) -> "Removal":
        """All of it but for the link, which stays and is remembered."""
        links = tuple(each for each in self.there if each.kind is PlacedKind.LINK)
        rest = tuple(each for each in self.there if each.kind is not PlacedKind.LINK)
        return Removal(rest, self.folders, self.kept, links)

    def lines(self, home: Path) -> Iterator[str]:
        """What will be done, for a person."""
        if self.there or self.folders:
            yield "This is removed, and the folders made for it, if nothing else is in them:"
        for each in self.there:
            how = ", as root" if each.kind is PlacedKind.LINK else ""
            yield f"  {_shown(each.path, home)}{how}"
        yield from _kept(self.kept, home, "it was changed since")

    def carry_out(self, where: Places) -> bool:
        """Take it away; whether that has worked. Raises OSError."""
        stays = set(self.stays)
        for each in self.there:
            if each.kind is PlacedKind.LINK and not _as_root("rm", "--", str(each.path)):
                stays.add(each)
            elif each.kind is PlacedKind.FILE:
                each.path.unlink(missing_ok=True)
        write_record(where.record, (*stays, *self.folders) if stays else ())
        for each in sorted(self.folders, reverse=True):  # what is in a folder comes before it
            with suppress(OSError):
                each.path.rmdir()
        return stays == set(self.stays)


def placing(where: Places) -> Placing:
    """What ``cbfs setup`` has to do. Raises CbfsError, OSError."""
    known = read_record(where.record)
    files, kept = [], []
    for each in wanted(where):
        there = found(each.path)
        if there in known or there is None:
            if there != Placed.file(each.path, each.data):
                files.append(each)
        elif not _same(each):
            kept.append(each.path)
    link, target = where.link, where.mount_program
    there, right = found(link), Placed.link(link, target)
    is_ours = there is None or there in known
    if there != right and not is_ours:
        kept.append(link)
    to_make = target if there != right and is_ours else None
    return Placing(tuple(files), to_make, link, tuple(kept), known)


def _same(each: OwnFile) -> bool:
    """Whether somebody else has put the same there, as newer versions of pipx do."""
    return each.path.is_file() and each.path.read_bytes() == each.data


def removal(where: Places) -> Removal:
    """What ``cbfs setup --undo`` has to do. Raises CbfsError, OSError."""
    known = read_record(where.record)
    things = sorted(each for each in known if each.kind is not PlacedKind.FOLDER)
    there = tuple(each for each in things if each.is_there())
    paths = {each.path for each in things} - {each.path for each in there}
    kept = tuple(sorted(path for path in paths if found(path)))
    folders = tuple(each for each in known if each.kind is PlacedKind.FOLDER)
    return Removal(there, folders, kept)


def _kept(paths: tuple[Path, ...], home: Path, why: str) -> Iterator[str]:
    for path in paths:
        yield f"This is left as it is, as {why}: {_shown(path, home)}"


def _shown(path: Path, home: Path) -> str:
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _agreed() -> bool:
    """Ask whoever is at the terminal. Raises CbfsError when nobody is."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CbfsError(
            "nobody can be asked whether that is wanted", "--yes does it without asking"
        )
    try:
        return input("Go on? [y/N] ").strip().casefold() in _YES
    except EOFError:
        print()
        return False


def _as_root(*words: str) -> bool:
    """Run a program as root, by sudo unless one is root; whether it has worked."""
    typed = shlex.join(words)
    if os.geteuid() == 0:
        return subprocess.run(words, check=False).returncode == 0
    if not shutil.which("sudo"):
        say(f"there is no sudo here; as root, type: {typed}")
        return False
    say(f"sudo {typed}")
    return subprocess.run(("sudo", *words), check=False).returncode == 0


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CbfsError(
            f"{error.filename or 'a file'}: {error.strerror}",
            hint_of(error, "is it yours? what was done so far, cbfs setup --undo takes away"),
        ) from error
