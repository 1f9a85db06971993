"""Which files of an installation by pipx or pip belong where a system, or a user's shell, looks for
them, and what they have to say there."""

import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs_common.errors import CbfsError

_PROGRAM: Final = re.compile(rb"^ExecStart=(cbfs|mount\.cbfs)(?= )", re.MULTILINE)
"""A program of ours in a unit, which systemd looks for where the system has its own."""

_OF_A_SYSTEM: Final = "cbfs-names-"
"""How units begin that are no user's."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where an installation has its files, and where they belong. ``scripts`` has its programs,
    ``share`` the rest; ``home``, ``data`` and ``config`` are the user's, ``record`` what ``cbfs
    setup`` remembers, and ``link`` is where mount(8) looks."""

    scripts: Path
    share: Path
    home: Path
    data: Path
    config: Path
    record: Path
    link: Path = Path("/sbin/mount.cbfs")

    @property
    def mount_program(self) -> Path:
        """What ``link`` leads to."""
        return self.scripts / "mount.cbfs"


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file of some kind, ``what``, to be put at ``path``."""

    what: str
    path: Path
    data: bytes


def places() -> Places:
    """Those of this process. Raises CbfsError when there is no home."""
    try:
        home = Path.home()
    except RuntimeError as error:
        raise CbfsError("your home directory is not known", "set HOME") from error
    local = home / ".local"
    return Places(
        scripts=Path(sysconfig.get_path("scripts")),
        share=Path(sys.prefix, "share"),
        home=home,
        data=_base("XDG_DATA_HOME", local / "share"),
        config=_base("XDG_CONFIG_HOME", home / ".config"),
        record=_base("XDG_STATE_HOME", local / "state") / "cbfs" / "setup",
    )


def _base(variable: str, otherwise: Path) -> Path:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else otherwise  # as that specification says


def wanted(where: Places) -> list[OwnFile]:
    """All files, in the order in which they are told. Raises CbfsError when the installation has
    none."""
    files = list(_files(where))
    if not files:
        raise CbfsError(
            f"there are no manual pages and units in {where.share}",
            "a package of the system has put them in their places already; cbfs setup is for what"
            " pipx or pip has installed from the wheel",
        )
    return files


def _files(where: Places) -> Iterator[OwnFile]:
    manual = where.home / ".local" / "share" / "man"  # which man(1) finds by ~/.local/bin
    completions = where.data / "bash-completion" / "completions"
    rows = (
        ("manual pages", "man/man1", manual / "man1"),
        ("manual pages", "man/man8", manual / "man8"),
        ("completions for bash", "bash-completion/completions", completions),
        ("completions for zsh", "zsh/site-functions", where.data / "zsh" / "site-functions"),
        ("completions for fish", "fish/vendor_completions.d", where.config / "fish/completions"),
        ("units", "cbfs/systemd", where.config / "systemd" / "user"),
    )
    for what, source, target in rows:
        for path in sorted((where.share / source).glob("*cbfs*")):  # libraries have some, too
            data = path.read_bytes()
            if what == "units":
                if path.suffix != ".service" or path.name.startswith(_OF_A_SYSTEM):
                    continue
                data = _PROGRAM.sub(lambda found: _started(where, found[1].decode()), data)
            yield OwnFile(what, target / path.name, data)


def _started(where: Places, program: str) -> bytes:
    """The line of a unit up to the program, by its path: as systemd.service(5) wants it quoted."""
    path = str(where.scripts / program)
    for special in "\\", '"':
        path = path.replace(special, "\\" + special)
    return b'ExecStart="' + os.fsencode(path.replace("%", "%%")) + b'"'
