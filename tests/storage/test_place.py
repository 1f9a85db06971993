"""An account directory is used only when nobody else can have put anything in it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cbfs.account.place import FILES, FOLDERS, SOCKETS, check_account, check_way, new_log
from cbfs_common.errors import CbfsError
from cbfs_common.onion import onion_host
from tests.support.names_local import POLICY
from tests.support.world import run

NOBODY = 65_534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def account(place: Path) -> Path:
    """A directory that looks like one."""
    directory = place / "account"
    for name in FOLDERS:
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in FILES:
        (directory / name).write_bytes(b"")
    for name in SOCKETS:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(directory / name))
    directory.chmod(0o700)
    return directory


def test_one_s_own_is_used(tmp_path: Path) -> None:
    check_account(account(tmp_path))
    check_account(tmp_path / "not there")


@pytest.mark.parametrize("name", (*FILES, *FOLDERS, *SOCKETS))
def test_a_link_in_it_is_refused(name: str, tmp_path: Path) -> None:
    directory = account(tmp_path)
    (directory / name).rename(tmp_path / "elsewhere")
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CbfsError, match="is a link"):
        check_account(directory)


@as_root
@pytest.mark.parametrize("name", (*FILES, *FOLDERS, *SOCKETS))
def test_what_somebody_else_has_put_in_it_is_refused(name: str, tmp_path: Path) -> None:
    directory = account(tmp_path)
    os.chown(directory / name, NOBODY, NOBODY)
    with pytest.raises(CbfsError, match="not yours"):
        check_account(directory)


def test_an_account_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    directory = account(tmp_path)
    for mode in (0o777, 0o770, 0o755, 0o1777):
        directory.chmod(mode)
        check_account(directory)
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("mode", "fine"), [(0o777, False), (0o1777, True), (0o775, True)])
def test_a_folder_above_it_that_everybody_may_write_to(
    mode: int, fine: bool, tmp_path: Path
) -> None:
    directory = account(tmp_path)
    tmp_path.chmod(mode)
    try:
        if fine:
            check_account(directory)
        else:
            with pytest.raises(CbfsError, match="everybody may write"):
                check_account(directory)
    finally:
        tmp_path.chmod(0o700)


@as_root
def test_root_uses_nothing_below_the_folder_of_a_user(tmp_path: Path) -> None:
    """Who could put another one in its place meanwhile."""
    home = tmp_path / "home"
    home.mkdir()
    directory = account(home)
    os.chown(home, NOBODY, NOBODY)
    for place in (directory, home / "not there"):
        with pytest.raises(CbfsError, match="belongs to nobody, and you are root"):
            check_account(place)


@as_root
def test_links_are_followed_where_they_are_one_s_own(tmp_path: Path) -> None:
    directory = account(tmp_path)
    for name, target in (
        ("absolute", directory),
        ("relative", "account"),
        ("up", f"../{tmp_path.name}/./account"),
        ("twice", "relative"),
    ):
        link = tmp_path / name
        link.symlink_to(target)
        check_account(link)
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        with pytest.raises(CbfsError, match="is a link of nobody"):
            check_account(link)
        os.chown(link, 0, 0, follow_symlinks=False)
        (tmp_path / "deep").mkdir(exist_ok=True)
        check_way(link / ".." / name / "store")
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(CbfsError, match="is a link of"):
        check_way(tmp_path / "round" / "account")


def test_a_log_is_a_new_file_whatever_was_there(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    puts: tuple[Callable[[Path], None], ...] = (
        lambda log: log.symlink_to(tmp_path / "precious"),
        lambda log: log.hardlink_to(tmp_path / "precious"),
    )
    for put in puts:
        (tmp_path / "log").unlink(missing_ok=True)
        put(tmp_path / "log")
        descriptor = new_log(tmp_path)
        os.write(descriptor, b"logged")
        os.close(descriptor)
        assert (tmp_path / "precious").read_text() == "precious"
        assert (tmp_path / "log").read_text() == "logged"


USES: dict[str, Callable[[Path, Path], tuple[str | Path, ...]]] = {
    "mount.cbfs": lambda place, at: ("mount.cbfs", place, at / "mount", "--no-tor"),
    "only": lambda place, at: ("mount.cbfs", place, at / "mount", "-o", "only=x"),
    "init": lambda place, at: (
        *("cbfs", "init", "alice", "--account", place, "--own-server"),
        *("--names", at / "policy", "--no-tor"),
    ),
    "export": lambda place, at: ("cbfs", "export", place, at / "file", "--passphrase-fd", "0"),
    "passphrase": lambda place, at: ("cbfs", "passphrase", place, "--remove"),
    "name": lambda place, at: ("cbfs", "name", "show", "--account", place, "--no-tor"),
    "onion-key": lambda place, at: ("cbfs", "onion-key", onion_host(bytes(32)), "--account", place),
}


@as_root
@pytest.mark.parametrize("use", USES)
def test_no_program_uses_the_account_of_somebody_else(use: str, tmp_path: Path) -> None:
    """As root it would follow what that user has put there."""
    directory = account(tmp_path)
    (tmp_path / "mount").mkdir()
    (tmp_path / "policy").write_text(POLICY.encode())
    (tmp_path / "precious").write_text("precious")
    (directory / "log").unlink()
    (directory / "log").symlink_to(tmp_path / "precious")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    before = sorted((path, path.lstat().st_mtime_ns) for path in directory.rglob("*"))
    name, *arguments = USES[use](directory, tmp_path)
    done = run(str(name), *arguments)
    assert done.returncode == 1
    assert "belongs to nobody" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted((path, path.lstat().st_mtime_ns) for path in directory.rglob("*")) == before


@as_root
def test_nothing_is_mounted_through_a_link_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to("/usr")
    os.chown(tmp_path / "mount", NOBODY, NOBODY, follow_symlinks=False)
    done = run("mount.cbfs", account(tmp_path), tmp_path / "mount", "--no-tor")
    assert done.returncode == 1
    assert "is a link of nobody" in done.stderr


def test_a_directory_with_other_files_becomes_no_account(tmp_path: Path) -> None:
    """``cbfs init --account ~`` would close a home to all others."""
    (tmp_path / "other").write_text("")
    tmp_path.chmod(0o755)
    (tmp_path / "policy").write_text(POLICY.encode())
    where = ("--account", tmp_path, "--names", tmp_path / "policy", "--own-server", "--no-tor")
    done = run("cbfs", "init", "alice", *where)
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "policy"]
