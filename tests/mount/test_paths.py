"""Accounts, mountpoints, policies and exports under paths of every kind, in locales with few
letters: no border between two programs takes a letter for something else."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.account.place import default_account
from cbfs.commands.sendmail import program as sendmail
from cbfs.mount import mount_table
from cbfs.mount.mount_table import FuseOption, fuse_source, mount_above, place_of, source_of
from cbfs.network.dial import SOCKET_PATH_MAX, socket_path
from cbfs_common.errors import CbfsError
from tests.support.starting import Place, no_mount_left
from tests.support.world import ENVIRONMENT, WAIT, World, program, wait_for, world

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""What leaves Python with no letters but those of ASCII."""

NAMES = {
    "letters": os.fsencode("jörg und 日本"),
    "signs": b"a,b \\040 \\, \"c\" 'd' $e =f #g %41 ;&|*?[\t-o x",
    "lines": b"one\ntwo",
    "no text": b"\xff\xc3 \x80",
    "very long": b"/".join([b"x" * 240 + b"\xc3\xa4"] * 14),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("here")) as made:
        assert made.server
        yield made


def call(name: str, *words: str | Path, ascii_only: bool, **more: str) -> str:
    """What a program of ours says to stdout; it must succeed, and say nothing strange."""
    done = subprocess.run(
        program(name, *words),
        input="four words for it\n",
        capture_output=True,
        timeout=WAIT,
        check=False,
        encoding="utf-8",
        errors="surrogateescape",
        env={**ENVIRONMENT, **(ASCII if ascii_only else {}), **more},
    )
    assert done.returncode == 0, (name, words, done.stderr)
    assert "Traceback" not in done.stderr
    assert all(line.startswith("cbfs: ") for line in done.stderr.splitlines()), done.stderr
    return done.stdout


@pytest.mark.mount
@pytest.mark.parametrize("kind", NAMES)
def test_everything_works_under_any_path(kind: str, here: World, tmp_path: Path) -> None:
    base = tmp_path / os.fsdecode(NAMES[kind])
    base.mkdir(parents=True)
    place = Place(base / "cbfs", base / "mount")
    place.mountpoint.mkdir()
    policy = base / "policy"
    policy.write_bytes((here.place / "names" / "policy").read_bytes())
    name = f"user-{sorted(NAMES).index(kind)}"
    narrow, data = ENVIRONMENT | ASCII, {"XDG_DATA_HOME": str(base)}
    where = ("--server", here.server.url, "--names", policy, "--no-tor")
    call("cbfs", "init", name, *where, ascii_only=True, **data)
    with no_mount_left(place):
        call("mount.cbfs", place.mountpoint, "--no-tor", ascii_only=False, **data)
        assert source_of(place.mountpoint) == str(place.account)
        assert mount_above(place.mountpoint / "outbox") == place.mountpoint
        assert place_of(place.mountpoint.stat().st_dev) == place.mountpoint
        account = os.getxattr(place.mountpoint, "user.cbfs.account")
        assert account == os.fsencode(place.account)
        (place.mountpoint / "ui_info" / "größe").write_text("kept")
        assert name in call("cbfs", "status", place.mountpoint, ascii_only=True)
        words = ("--passphrase-fd", "0")
        call("cbfs", "export", place.mountpoint, base / "export", *words, ascii_only=True)
        daemon = place.daemon()
        os.kill(daemon, 9)
        wait_for(lambda: not Path(f"/proc/{daemon}").exists() or None, "its end")
        done = place.start('exec "$@"', env=narrow)  # over the dead mount
        assert done.code == 0, done.stderr
        assert (place.mountpoint / "ui_info" / "größe").read_text() == "kept"
        again = place.start('exec "$@"')
        assert again.code == 1
        assert "something is mounted on" in again.stderr
        again.check_words()
        place.unmount()
    restored = ("--restore", base / "export", "--account", base / "restored")
    call("cbfs", "init", *restored, "--export-passphrase-fd", "0", ascii_only=False)
    assert (base / "restored" / "root.key").exists()


def test_the_source_of_a_mount_is_any_path() -> None:
    for name in NAMES.values():
        option = fuse_source(Path(os.fsdecode(b"/" + name)))
        assert isinstance(option, FuseOption)
        data = option.encode("us-ascii")
        plain = data.removeprefix(b"fsname=").replace(b"\\\\", b"\0").replace(b"\\,", b",")
        assert plain.replace(b"\0", b"\\") == b"/" + name


def test_a_socket_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / os.fsdecode(NAMES["very long"])
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with socket_path(deep, "control") as path:
        assert len(os.fsencode(path)) <= SOCKET_PATH_MAX
        assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    with socket_path(Path("/") / os.fsdecode(b"\xff"), "control") as path:
        assert path == "/\udcff/control"


def test_where_the_account_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_account() == Path("/data/cbfs")
    monkeypatch.setenv("HOME", "/home/jörg")
    for ignored in ("", "relative"):  # XDG Base Directory Specification
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert default_account() == Path("/home/jörg/.local/share/cbfs")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _user: (_ for _ in ()).throw(KeyError))
    with pytest.raises(CbfsError, match="home"):
        default_account()


def test_what_others_mount_as_an_account_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can mount something under any name, and let others in; and over what was there. What
    they have not mounted, or cannot be told, is not asked for what it is."""
    me = os.geteuid()
    owners = {
        **{"other": f",user_id={me + 1},group_id=0", "mine": f",user_id={me},group_id=0"},
        **{"none": "", "two": f",user_id={me}1,allow_other", "over": f",user_id={me}"},
        **{"words": f",xuser_id={me}", "number": ",user_id=x", "last": f",user_id={me}"},
    }
    line = "36 35 0:{} / {} rw,nosuid shared:1 - {} {} rw{}"
    lines = [
        line.format(50 + at, tmp_path / name, "fuse.cbfs", tmp_path / "account", more)
        for at, (name, more) in enumerate(owners.items())
    ]
    lines.append(line.format(99, tmp_path / "over", "fuse.sshfs", "x", f",user_id={me + 1}"))
    (tmp_path / "table").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(mount_table, "TABLE", tmp_path / "table")
    asked = tmp_path / "asked"

    def attribute(path: Path, name: str) -> bytes:  # in a process of its own
        with asked.open("a") as file:
            file.write(f"{path.name} {name}\n")
        raise OSError(errno.ENOTCONN, "dead")

    monkeypatch.setattr(os, "getxattr", attribute)
    assert sendmail._mount_of(tmp_path / "account") == (None, False)
    assert asked.read_text() == "mine user.cbfs.account\nlast user.cbfs.account\n"
