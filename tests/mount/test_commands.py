"""What the client's commands say when they are not given what they need: the cause, and what to
do."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.commands.mount.options import _separate
from cbfs_common.profile import parse_address
from tests.support.mounted import Mounted, mounted
from tests.support.world import ENVIRONMENT, WAIT, Service, program, run, world


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    with mounted() as made:
        yield made


def told(*words: str | Path) -> tuple[str, str]:
    """(error, hint) of a command that fails."""
    done = run(*map(str, words))
    assert done.returncode == 1, done.stderr
    assert not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) <= 2
    assert lines[0].startswith("cbfs: error: ")
    hint = lines[1].removeprefix("cbfs: hint: ") if lines[1:] else ""
    return lines[0].removeprefix("cbfs: error: "), hint


@pytest.mark.mount
def test_status_outside_a_mount_says_what_is_there_instead(mount: Mounted, tmp_path: Path) -> None:
    assert run("cbfs", "status", mount.path).returncode == 0
    error, hint = told("cbfs", "status", mount.path / "outbox")
    assert error == f"{mount.path}/outbox is in the mount on {mount.path}"
    assert hint == f"name that: {mount.path}"
    error, hint = told("cbfs", "status", tmp_path)
    assert error == f"nothing of cbfs is mounted on {tmp_path}"
    assert "mount.cbfs" in hint
    (tmp_path / "status").write_text("not ours")
    told("cbfs", "status", tmp_path)
    error, hint = told("cbfs", "status", tmp_path / "missing")
    assert error.endswith("/missing")
    (tmp_path / "root.key").write_bytes(b"")
    error, hint = told("cbfs", "status", tmp_path)
    assert error == f"{tmp_path} is an account directory, and not mounted"
    assert hint == f"mount it: mount.cbfs {tmp_path} DIR"
    (mount.account / "root.key").touch()
    error, hint = told("cbfs", "status", mount.account)
    assert error.endswith(f"is an account directory, which is mounted on {mount.path}")
    assert hint == f"name that: {mount.path}"


@pytest.mark.mount
def test_status_tells_what_was_not_taken_of_the_spool(mount: Mounted) -> None:
    spool = mount.account / "spool"
    spool.mkdir(exist_ok=True)
    before = run("cbfs", "status", mount.path).stdout
    assert "spool" not in before
    lost = spool / f"{'1' * 32}.unreadable"
    lost.touch()
    try:
        after = run("cbfs", "status", mount.path).stdout
    finally:
        lost.unlink()
    assert "messages in the spool that could not be read: 1" in after


@pytest.mark.mount
def test_a_dead_mount_is_said_to_be_dead() -> None:
    with mounted() as mount:
        mount.signal(signal.SIGKILL)
        error, hint = told("cbfs", "status", mount.path)
        assert "is dead" in error
        assert "mount it again" in hint


@pytest.mark.mount
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("Yes", 0), ("n", 1), ("", 1)])
def test_verify_takes_y(answer: str, code: int, mount: Mounted) -> None:
    done = subprocess.run(
        program("cbfs", "verify", mount.path, "bob"),
        input=f"{answer}\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == code, done.stderr
    verified = mount.path / "contacts" / "bob" / "verified"
    assert verified.exists() == (code == 0)
    verified.unlink(missing_ok=True)


def test_verify_outside_a_mount(tmp_path: Path) -> None:
    error, _hint = told("cbfs", "verify", tmp_path, "bob")
    assert error == f"nothing of cbfs is mounted on {tmp_path}"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("mount.cbfs", "/tmp", "-o", "bridge=FILE"), "-o bridges=FILE"),
        (("mount.cbfs", "/tmp", "-o", "grace=0,tor_=x"), "-o tor=ADDRESS"),
        (("mount.cbfs", "/tmp", "-o", "notor"), "-o no_tor"),
        (("mount.cbfs", "/tmp", "-o", "bridges"), "-o bridges=FILE takes a value"),
        (("cbfs", "init", "alice", "-o", "bridges=FILE"), "--bridges"),
        (("cbfs", "init", "alice", "-o", "no_tor"), "--no-tor"),
        (("cbfs", "init", "alice", "--brigdes", "FILE"), "--bridges"),
        (("cbfs", "name", "show", "--acount", "x"), "--account"),
    ],
)
def test_an_unknown_option_names_the_one_that_is_meant(words: tuple[str, ...], meant: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert meant in done.stderr.splitlines()[-1]


def test_mount_takes_what_the_hints_name() -> None:
    """``--bridges FILE`` is for all programs."""
    done = run("mount.cbfs", "/nowhere", "--bridges", "FILE", "--tor", "own", "--torrc", "FILE")
    assert done.returncode == 1
    assert "unrecognized" not in done.stderr


def test_words_of_options_can_have_commas() -> None:
    given = ["rw,only=a\\,b", "bridges=/a\\\\b,x\\y", ",,", "end\\"]
    assert list(_separate(given)) == ["rw", "only=a,b", "bridges=/a\\b", "x\\y", "end\\"]


@pytest.mark.parametrize(
    "words",
    [
        ("cbfs", "export", "ACCOUNT", "FILE", "--passphrase-fd", "99999999999999999999"),
        ("cbfs", "export", "ACCOUNT", "FILE", "--passphrase-fd", "77"),
        ("cbfs", "init", "alice", "--names", "/", "--server", "cbfs://x", "--account", "ACCOUNT"),
        ("mount.cbfs", "ACCOUNT", "/tmp", "-o", "uid=99999999999999999999"),
        ("mount.cbfs", "ACCOUNT", "/root/" + "x" * 5_000),
        ("mount.cbfs", "x" * 5_000, "/tmp"),
        ("mount.cbfs", "ACCOUNT", "/dev/null"),
        ("cbfs", "status", "x" * 5_000),
        ("cbfs", "init", "alice", "--restore", "/"),
        ("cbfs", "passphrase", "/dev/null"),
    ],
)
def test_nothing_is_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    places = {"ACCOUNT": str(tmp_path / "account"), "FILE": str(tmp_path / "file")}
    done = run(*(places.get(word, word) for word in words))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr


@pytest.mark.mount
@pytest.mark.parametrize("where", ["/dev/full", "|"])
def test_output_that_nobody_takes(where: str, mount: Mounted) -> None:
    words = ("cbfs", "status", mount.path)
    tail = "| true" if where == "|" else f"> {where}"
    script = f'"$@" {tail}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *program(*words)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if where != "|":
        assert done.returncode == 1
        assert "no space left on device" in done.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    for words in (("cbfs", "status", "."), ("mount.cbfs", "."), ("cbfs", "export", ".", "x")):
        done = subprocess.run(
            ["sh", "-c", script, "sh", *program(*words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("cbfs: error: ")


def test_a_home_server_at_an_ipv6_address(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        server = Service("cbfs-server", tmp_path / "six", (), "[::1]:0")
        try:
            assert parse_address(server.url).host == "::1"
            assert "@[::1]:" in server.url
            where = ("--account", tmp_path / "account", "--server", server.url)
            policy = here.place / "names" / "policy"
            done = run("cbfs", "init", "sixth", *where, "--names", policy, "--no-tor")
            assert done.returncode == 0, done.stderr
            assert "[::1]:" in done.stderr
        finally:
            server.close()
