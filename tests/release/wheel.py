"""The wheel, as somebody installs it by pipx, with what ``cbfs setup`` adds."""

import re
from pathlib import Path

from cbfs_common.version import VERSION
from tests.release.steps import Steps
from tests.release.systems import System

_BIN = "/home/carol/.local/bin"
_PAGES = ("man1/cbfs.1", "man1/cbfs-sendmail.1", "man8/mount.cbfs.8")
_PUT = (
    *(f".local/share/man/{page}" for page in _PAGES),
    *(".local/share/bash-completion/completions/cbfs", ".config/fish/completions/cbfs.fish"),
    *(".local/share/zsh/site-functions/_cbfs", ".config/systemd/user/cbfs@.service"),
    ".config/systemd/user/cbfs-host.service",
)


def set_up(system: System, name: str, data: bytes, steps: Steps) -> None:
    """Install a wheel, put in place what pipx cannot, and take it away again, as a user who may
    become root. Raises Failed, AssertionError."""
    system.run("useradd", "--create-home", "--shell", "/bin/bash", "carol")
    (system.place / "tmp" / name).write_bytes(data)
    with steps.step("pipx, sudo and man"):
        needed = ("pipx", "sudo", "man-db", "systemd", "fuse3")
        system.apt("install", "--no-install-recommends", *needed)
        rule = system.place / "etc/sudoers.d/carol"
        rule.write_text("carol ALL=(root) NOPASSWD: ALL\n")
        rule.chmod(0o440)
    with steps.step("the wheel is installed by pipx"):
        system.run("pipx", "install", f"/tmp/{name}", user="carol")
    home = system.place / "home/carol"
    before = _tree(home)
    with steps.step("cbfs setup"):
        said = _cbfs(system, "setup", "--yes")
        assert "/sbin/mount.cbfs" in said, said
        for path in _PUT:  # newer versions of pipx have put some of them there by themselves
            system.run("test", "-s", path, user="carol")
        assert _cbfs(system, "--version").strip() == f"cbfs {VERSION}"
        mount = system.run("/sbin/mount.cbfs", "--version", user="carol").strip()
        assert mount == f"mount.cbfs {VERSION}", mount
        for page in ("cbfs", "mount.cbfs"):
            found = _typed(system, "man", "-w", page).strip()
            assert found.startswith("/home/carol/.local/"), found
        units = ["/home/carol/.config/systemd/user/cbfs-host.service",
                 "/home/carol/.config/systemd/user/cbfs@.service"]  # fmt: skip
        _typed(system, "systemd-analyze", "verify", "--user", *units)
    with steps.step("cbfs setup has nothing more to do"):
        assert not _cbfs(system, "setup", "--yes")
    with steps.step("cbfs setup --undo"):
        _cbfs(system, "setup", "--undo", "--yes")
        assert _tree(home) == before, _tree(home) ^ before
        assert not (system.place / "sbin/mount.cbfs").is_symlink()


def _cbfs(system: System, *words: str) -> str:
    return _typed(system, f"{_BIN}/cbfs", *words)


def _typed(system: System, *words: str) -> str:
    """What a program says to carol, whose own programs come first."""
    path = f"{_BIN}:{system.environment('carol')['PATH']}"
    found = {"PATH": path, "XDG_RUNTIME_DIR": "/tmp"}
    return system.run("env", *(f"{name}={value}" for name, value in found.items()), *words,
                      user="carol")  # fmt: skip


def _tree(home: Path) -> set[str]:
    """What is in a home, but for what programs keep for the next time."""
    names = {str(path.relative_to(home)) for path in home.rglob("*")}
    return {name for name in names if not re.search("__pycache__|^.cache(/|$)", name)}
