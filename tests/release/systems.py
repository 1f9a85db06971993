"""Bare systems of distributions, each in a folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "build" / "systems"
"""Archives of systems, for the next time."""

BUILDING: Final = (
    *("python3-venv", "python3-dev", "gcc", "libc6-dev", "pkg-config", "libfuse3-dev"),
    *("binutils", "ca-certificates", "lintian"),
)
"""What building the package takes, in Debian's names, and what judges it."""

_DEBIAN: Final = "http://deb.debian.org/debian"
_UBUNTU: Final = "http://archive.ubuntu.com/ubuntu"
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED: Final = ("http_proxy", "https_proxy", "no_proxy")
_APT: Final = ("apt-get", "-qq", "-y", "-o", "Dpkg::Use-Pty=0")


class Failed(Exception):
    """A program has failed: its words, and the end of what it has said."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """One that there is a package for. ``script`` is how debootstrap calls it."""

    suite: str
    mirror: str = _DEBIAN
    components: str = "main"
    script: str = "sid"


DISTRIBUTIONS: Final = (
    Distribution("bookworm"),
    Distribution("trixie"),
    Distribution("noble", _UBUNTU, "main,universe", "gutsy"),
)


@dataclass(frozen=True, slots=True)
class System:
    """A system that programs can be run in."""

    place: Path

    def run(self, *words: str, user: str = "root", said: str = "", **more: str) -> str:
        """What a program prints there that has ``said`` on its stdin. Raises Failed."""
        return run(*self.command(words, user), said=said, **self.environment(user), **more)

    def apt(self, *words: str) -> None:
        """Run apt-get. Raises Failed."""
        self.run(*_APT, *words, DEBIAN_FRONTEND="noninteractive")

    def command(self, words: tuple[str, ...], user: str = "root") -> list[str]:
        """The command line by which a user runs words there, at home."""
        home = self.environment(user)["HOME"]
        at_home = ["env", "--chdir", home, *words]
        return ["chroot", f"--userspec={user}:{user}", str(self.place), *at_home]

    @staticmethod
    def environment(user: str) -> dict[str, str]:
        """The variables of a user."""
        home = "/root" if user == "root" else f"/home/{user}"
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        passed |= {"PIP_CERT": str(_CERTIFICATES), "LC_ALL": "C.UTF-8"}
        return {"PATH": _PATH, "HOME": home, "USER": user, **passed}

    def files(self) -> set[str]:
        """The paths of all files and folders that are no mounts, from its root."""
        found = set()
        for folder, names, files in os.walk(self.place):
            below = os.path.relpath(folder, self.place)
            found |= {os.path.normpath(f"/{below}/{name}") for name in (*names, *files)}
            names[:] = [name for name in names if not os.path.ismount(Path(folder, name))]
        return found


def run(*words: str | Path, said: str = "", **environment: str) -> str:
    """What a program prints, in these variables or, without any, those of this process. Raises
    Failed."""
    done = subprocess.run(
        words,
        env=environment or None,
        input=said.encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        told = (done.stdout + done.stderr).decode(errors="replace")
        raise Failed(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{told[-4000:]}")
    return done.stdout.decode()


def prepare(kind: Distribution) -> bool:
    """Keep both systems of a distribution; whether that had to be done. Raises Failed."""
    base, workshop = _archive(kind), _archive(kind, "-workshop")
    new = not (base.exists() and workshop.exists())
    if not base.exists():
        keyring = _keyring(kind)
        with _folder() as place:
            run("debootstrap", "--variant=minbase", f"--components={kind.components}",
                *([f"--keyring={keyring}"] if keyring else []),
                kind.suite, place, kind.mirror, kind.script)  # fmt: skip
            # Nothing starts services there.
            policy = place / "usr/sbin/policy-rc.d"
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            _keep(place, base)
    if not workshop.exists():
        with bare(kind) as system:
            system.apt("install", "--no-install-recommends", *BUILDING)
            system.apt("clean")
            _unmount(system.place)
            _keep(system.place, workshop)
    return new


def bare(kind: Distribution) -> AbstractContextManager[System]:
    """A system with what every one has, and nothing else; ``prepare`` has kept it."""
    return _unpacked(_archive(kind))


@contextmanager
def workshop(kind: Distribution) -> Iterator[System]:
    """A system with what building takes; ``prepare`` has kept it."""
    with _unpacked(_archive(kind, "-workshop")) as system:
        # Of a network that has certificates of its own.
        if _CERTIFICATES.exists():
            shutil.copyfile(_CERTIFICATES, system.place / str(_CERTIFICATES)[1:])
        yield system


def _archive(kind: Distribution, what: str = "") -> Path:
    return KEPT / f"{kind.suite}{what}.tar"


@contextmanager
def _unpacked(archive: Path) -> Iterator[System]:
    with _folder() as place:
        run("tar", "-C", place, "-xf", archive)
        shutil.copyfile("/etc/resolv.conf", place / "etc/resolv.conf")
        device = place / "dev/fuse"
        if not device.exists():  # as udev makes it: for all
            run("mknod", "--mode=666", device, "c", "10", "229")
        try:
            run("mount", "-t", "proc", "proc", place / "proc")
            system = System(place)
            system.apt("update")
            yield system
        finally:
            _unmount(place)


def _unmount(place: Path) -> None:
    if os.path.ismount(place / "proc"):
        run("umount", "--lazy", place / "proc")


@contextmanager
def _folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    try:
        yield place
    finally:
        run("rm", "-rf", "--one-file-system", place)


def _keep(place: Path, archive: Path) -> None:
    """Write the archive of a system, or none."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    written = archive.with_suffix(".new")
    run("tar", "-C", place, "-cf", written, ".")
    written.replace(archive)


def _keyring(kind: Distribution) -> Path | None:
    """The file of keys that a mirror's lists are signed by, unless debootstrap knows it: Ubuntu's
    is a package of Debian, though not of each release."""
    if kind.mirror == _DEBIAN:
        return None
    name = "usr/share/keyrings/ubuntu-archive-keyring.gpg"
    if Path("/", name).exists():
        return Path("/", name)
    keyring = KEPT / "ubuntu-archive-keyring.gpg"
    if not keyring.exists():
        newest = next(each for each in DISTRIBUTIONS if each.suite == "trixie")
        prepare(newest)
        with bare(newest) as system:
            system.apt("install", "--no-install-recommends", "ubuntu-keyring")
            shutil.copyfile(system.place / name, keyring)
    return keyring
