"""Builds the package for each distribution in a bare system of it, twice; installs it there in
another, uses it, purges it, and looks for what is left. As root, with Debian's mirror: minutes."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbfs_common.version import VERSION

ROOT = Path(__file__).parents[2]
SUITES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
BUILDING = (
    *("python3-venv", "python3-dev", "gcc", "libc6-dev", "pkg-config", "libfuse3-dev"),
    "binutils",
)
PROGRAMS = ("cbfs", "mount.cbfs", "cbfs-server", "cbfs-names")
CHANGED = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "proc", "dev", "sys", "tmp")
"""What changes with every package."""


def run(*words: str | Path, **more: str) -> str:
    """What a program says; raises CalledProcessError."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **more}
    done = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True
    )
    return done.stdout.decode()


def within(system: Path, *words: str, **more: str) -> str:
    return run("chroot", system, *words, PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", **more)


@contextmanager
def bare(suite: str, folder: Path) -> Iterator[Path]:
    """A system of the suite, with devices and processes."""
    base, system = folder / f"{suite}.tar", Path(tempfile.mkdtemp(dir=folder))
    system.chmod(0o755)
    if not base.exists():
        run("debootstrap", "--variant=minbase", "--include=man-db,ca-certificates", suite,
            system, MIRROR)  # fmt: skip
        run("tar", "-C", system, "-cf", base, ".")
    else:
        run("tar", "-C", system, "-xf", base)
    for name in "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt":
        shutil.copyfile(name, system / name[1:])
    for name in "proc", "dev":
        run("mount", "--bind", f"/{name}", system / name)
    try:
        within(system, "apt-get", "update", "-qq")
        yield system
    finally:
        for name in "dev", "proc":
            run("umount", "--lazy", system / name)
        run("rm", "-rf", "--one-file-system", system)


def built(system: Path, tree: Path, when: str) -> dict[str, bytes]:
    """The files of a release, built in a system."""
    place = system / "build"
    shutil.copytree(tree, place / "source")
    shutil.copyfile("/etc/pip.conf", system / "etc/pip.conf") if Path(
        "/etc/pip.conf"
    ).exists() else None
    script = "/build/source/release/package.sh"
    within(system, "sh", script, "/build/source", "/build/out", "deb", SOURCE_DATE_EPOCH=when)
    found = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
    shutil.rmtree(place)
    return found


def files(system: Path) -> set[str]:
    """The paths of a system, but for those of the package manager itself."""
    found = set()
    for folder, _, names in os.walk(system):
        below = os.path.relpath(folder, system)
        if not below.startswith(CHANGED):
            found |= {below, *(f"{below}/{name}" for name in names)}
    return found


def used(system: Path, package: str) -> None:
    """Install, use and purge it. Raises CalledProcessError, AssertionError."""
    needs = within(system, "dpkg-deb", "-f", package, "Depends")
    names = [need.split()[0] for need in needs.split(",")]
    apt = "apt-get", "-qq", "-y", "--no-install-recommends"
    within(system, *apt, "install", *names)
    before = files(system)
    within(system, *apt, "install", package)
    for program in PROGRAMS:
        assert within(system, program, "--version").strip() == f"{program} {VERSION}"
    for page in ("cbfs", "cbfs-sendmail", "mount.cbfs", "cbfs-server", "cbfs-names"):
        assert "cbfs" in within(system, "man", "-w", page)
    assert within(system, "readlink", "-f", "/sbin/mount.cbfs").strip().endswith("cbfs")
    within(
        system, "sh", "-c", "cbfs demo /tmp/demo >/tmp/said 2>&1 || { cat /tmp/said >&2; false; }"
    )
    within(system, *apt, "purge", "cbfs")
    left = {path for path in files(system) - before if not path.startswith("root/")}
    left -= {"etc/mtab.fuselock"}  # of fusermount3
    assert not left, left


def main() -> int:
    """Test each suite; the exit code."""
    when = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        tree = folder / "tree"
        tree.mkdir()
        run("sh", "-c", f"git -C '{ROOT}' archive HEAD | tar -x -C '{tree}'")
        for suite in SUITES:
            with bare(suite, folder) as system:
                within(
                    system, "apt-get", "-qq", "-y", "--no-install-recommends", "install", *BUILDING
                )
                first, again = (built(system, tree, when) for _ in range(2))
            assert first == again, f"{suite}: other bytes the second time"
            with bare(suite, folder) as system:
                (package,) = (each for each in first if each.endswith(".deb"))
                (system / "tmp" / package).write_bytes(first[package])
                if suite == SUITES[0]:  # the one whose lintian this is
                    run("lintian", "--fail-on", "error,warning", system / "tmp" / package)
                used(system, f"/tmp/{package}")
            print(f"{suite}: {package}: the same twice, installed, used, purged", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
