"""The client's programs, however they are started, signalled and interrupted."""

import fcntl
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.starting import Ended, Place, events, interrupted, no_mount_left
from tests.support.world import ENVIRONMENT, WAIT, program, run, wait_for, world

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An account, whose servers are gone."""
    place = tmp_path_factory.mktemp("made")
    with world(place) as here:
        return here.account("alice").account


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Iterator[Place]:
    """A copy of it, and a mountpoint."""
    account, mountpoint = tmp_path / "account", tmp_path / "mount"
    shutil.copytree(made, account)
    mountpoint.mkdir()
    here = Place(account, mountpoint)
    with no_mount_left(here):
        yield here


WORKS = {
    "closed 0": 'exec "$@" <&-',
    "closed 1": 'exec "$@" >&-',
    "closed 2": 'exec "$@" 2>&-',
    "closed 0 and 1": 'exec "$@" <&- >&-',
    "closed 0, 1 and 2": 'exec "$@" <&- >&- 2>&-',
    "umask 0777": 'umask 0777; exec "$@"',
    "signals ignored": "trap '' TERM HUP INT CHLD USR1 ALRM; exec \"$@\"",
    "signals blocked": (
        'exec python3 -c "import os, signal, sys;'
        " signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32));"
        ' os.execv(sys.argv[1], sys.argv[1:])" "$@"'
    ),
    "folder removed": 'mkdir "$TMPDIR/d"; cd "$TMPDIR/d"; rmdir "$TMPDIR/d"; exec "$@"',
    "empty environment": 'exec env -i "$@"',
    "a locale of ASCII": (
        'exec env -i LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 PATH="$PATH" "$@"'
    ),
    "a pipe that nobody reads": 'mkfifo "$TMPDIR/p"; exec 3<>"$TMPDIR/p"; exec "$@" >&3 2>&3',
    "no /etc/mtab": (
        "mount --make-rprivate /; mkdir $TMPDIR/up $TMPDIR/work; mount -t tmpfs none /mnt;"
        " mkdir /mnt/up /mnt/work;"
        " mount -t overlay -o lowerdir=/etc,upperdir=/mnt/up,workdir=/mnt/work none /etc;"
        ' rm /etc/mtab; umount -l /mnt; exec "$@"'
    ),
}
"""Ways to start the mount; each must work."""


@pytest.mark.parametrize("way", WORKS)
def test_it_mounts_however_it_is_started(way: str, place: Place, tmp_path: Path) -> None:
    env = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    script = WORKS[way]
    private = way == "no /etc/mtab"
    if private:
        script = f"unshare -m --propagation unchanged sh -c '{script}' sh \"$@\""
    done = place.start(script, env=env)
    done.check_words()
    assert done.code == 0, done.stderr
    daemon = place.daemon()
    assert Path(f"/proc/{daemon}/root{place.mountpoint}/conversations").is_dir()
    os.kill(daemon, signal.SIGTERM)
    place.wait_clean()
    place.check_usable()


FAILS = {
    **{f"{n} descriptors": f'ulimit -n {n}; exec "$@"' for n in (6, 16, 20, 22)},
    "no file may grow": 'ulimit -f 4; exec "$@"',
    "an account that cannot be written": (
        "exec unshare -m sh -c '"
        'mount --bind "$ACCOUNT" "$ACCOUNT"; mount -o remount,bind,ro "$ACCOUNT"; exec "$@"'
        '\' sh "$@"'
    ),
    "no /dev/fuse": 'exec unshare -m sh -c \'mount -t tmpfs none /dev; exec "$@"\' sh "$@"',
    "no /proc": 'exec unshare -m sh -c \'mount -t tmpfs none /proc; exec "$@"\' sh "$@"',
}
"""Ways in which it may fail, in words."""


@pytest.mark.parametrize("way", FAILS)
def test_it_mounts_or_says_why_not(way: str, place: Place) -> None:
    done = place.start(FAILS[way], env={**ENVIRONMENT, "ACCOUNT": str(place.account)})
    done.check_words()
    if done.code == 0:
        os.kill(place.daemon(), signal.SIGTERM)
    else:
        assert done.code == 1
        assert any(line.startswith("cbfs: error: ") for line in done.lines), done.stderr
    place.wait_clean()
    place.check_usable()


def test_the_daemon_keeps_nothing_of_who_started_it(place: Place, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "held", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    reading, writing = os.pipe()
    words = program("mount.cbfs", place.account, place.mountpoint, "--no-tor")
    done = subprocess.run(
        words,
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=writing,
        pass_fds=(lock, writing),
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0
    os.close(lock)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        assert select.select([pipe], [], [], WAIT)[0]
        pipe.read()  # it comes to its end
    again = os.open(tmp_path / "held", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    assert Path(f"/proc/{place.daemon()}/cwd").readlink() == Path("/")
    place.unmount()


def test_a_signal_ends_a_mount_that_another_namespace_has(place: Place) -> None:
    """Unmounted here, it lives on there; the next mount says in whom, and SIGTERM ends it."""
    assert place.start('exec "$@"').code == 0
    daemon = place.daemon()
    holder = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo in; read wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == b"in\n"
    inside = Path(f"/proc/{holder.pid}/root{place.mountpoint}")
    (inside / "ui_info" / "kept").write_text("kept")
    subprocess.run(["fusermount3", "-u", place.mountpoint], check=True, timeout=WAIT)
    assert not any(place.mountpoint.iterdir())
    busy = place.start('exec "$@"')
    assert busy.code == 1
    assert f"in use by process {daemon}" in busy.stderr
    assert f"kill {daemon}" in busy.stderr
    os.kill(daemon, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{daemon}").exists() or None, "its end")
    assert place.start('exec "$@"').code == 0
    assert (place.mountpoint / "ui_info" / "kept").read_text() == "kept"
    with holder:
        holder.stdin.close()
    place.unmount()


def test_what_is_mounted_in_its_place_stays(place: Place, made: Path, tmp_path: Path) -> None:
    """The end of a mount that is out of sight does not take the next one with it."""
    assert place.start('exec "$@"').code == 0
    old = place.daemon()
    held = os.open(place.mountpoint / "ui_info" / "open", os.O_RDWR | os.O_CREAT)
    try:
        subprocess.run(["fusermount3", "-uz", place.mountpoint], check=True, timeout=WAIT)
        other = Place(tmp_path / "other", place.mountpoint)
        shutil.copytree(made, other.account)
        assert other.start('exec "$@"').code == 0
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{old}").exists() or None, "its end")
        assert other.answers()
    finally:
        with suppress(OSError):
            os.close(held)
    other.unmount()


def test_a_file_that_is_open_does_not_keep_it_from_ending(place: Place) -> None:
    assert place.start('exec "$@"').code == 0
    daemon = place.daemon()
    held = os.open(place.mountpoint / "ui_info" / "open", os.O_RDWR | os.O_CREAT)
    os.write(held, b"written before")
    os.kill(daemon, signal.SIGTERM)
    place.wait_clean()
    with pytest.raises(OSError, match=r"endpoint|aborted"):
        os.write(held, b"and after")
    with suppress(OSError):
        os.close(held)
    assert place.start('exec "$@"').code == 0
    assert (place.mountpoint / "ui_info" / "open").read_text() == "written before"
    place.unmount()


def test_signals_that_are_not_for_it_do_not_end_it(place: Place) -> None:
    assert place.start('exec "$@"').code == 0
    daemon = place.daemon()
    log = place.account / "log"
    before = log.stat().st_ino
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGPIPE):
        os.kill(daemon, number)

    def is_new() -> bool:
        try:
            return log.stat().st_ino != before
        except FileNotFoundError:  # the old one has gone, and the new one is not there yet
            return False

    wait_for(is_new, "a new log")
    assert place.answers()
    place.unmount()


def test_a_log_that_cannot_be_begun_anew_ends_nothing(place: Place) -> None:
    """Something else has its place, as there may be no room for a file."""
    assert place.start('exec "$@"').code == 0
    log = place.account / "log"
    log.rename(place.account / "log.1")
    log.mkdir()
    os.kill(place.daemon(), signal.SIGHUP)
    told = place.account / "log.1"
    wait_for(lambda: "cannot write" in told.read_text() or None, "a line in the log there was")
    (place.mountpoint / "ui_info" / "kept").write_text("saved")
    log.rmdir()
    place.unmount()
    assert place.start('exec "$@"').code == 0
    assert (place.mountpoint / "ui_info" / "kept").read_text() == "saved"
    place.unmount()


def test_a_terminal_that_is_gone_ends_what_is_in_its_foreground(place: Place) -> None:
    words = program("mount.cbfs", place.account, place.mountpoint, "--no-tor", "--foreground")
    with subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as mount:
        wait_for(lambda: os.path.ismount(place.mountpoint) or None, "the mount")
        os.kill(mount.pid, signal.SIGUSR1)
        assert place.answers()
        os.kill(mount.pid, signal.SIGHUP)
        assert mount.wait(WAIT) == 0
    place.wait_clean()


# Ctrl-C


def check_interrupted(done: Ended) -> None:
    assert done.code == 130, done.stderr
    assert done.lines[-1] == "cbfs: interrupted"
    assert all(line.startswith("cbfs: ") for line in done.lines), done.stderr


def moments(count: int, tries: int) -> list[int]:
    """Early ones, where the imports are, and all over it."""
    chosen = random.Random(count)
    return sorted({1, 2, 50, *(chosen.randrange(1, count - 20) for _ in range(tries))})


def test_ctrl_c_in_a_mount_leaves_nothing(place: Place) -> None:
    words = (place.account, place.mountpoint, "--no-tor")
    count = events("mount_cbfs", *words)
    place.unmount()
    for number in moments(count, 6):
        done = interrupted(number, "mount_cbfs", *words)
        if done.code == 0:  # it was mounted already
            place.unmount()
        else:
            check_interrupted(done)
        place.wait_clean()
    place.check_usable()


STUBBORN = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise SystemError("a panic")
"""


@pytest.mark.parametrize("begin", ["cbfs.commands.process.entry._begin", "cbfs_host.entry.begin"])
def test_ctrl_c_in_a_module_that_makes_something_else_of_it(begin: str, tmp_path: Path) -> None:
    """As compiled ones do when an exception comes while they are read in."""
    package = tmp_path / "stub"
    package.mkdir()
    (package / "cli.py").write_text(STUBBORN)
    module, _, function = begin.rpartition(".")
    arguments = "'stub.cli'" if function == "_begin" else "'stub', 'stub.cli'"
    words = [
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)",
        f"import {module}; raise SystemExit({begin}({arguments}))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(words)],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert (done.returncode, done.stderr.split(": ")[1:]) == (130, ["interrupted\n"]), done.stderr


def test_ctrl_c_in_an_export_leaves_nothing(place: Place, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("four words for it\n")
    folder = tmp_path / "exports"
    folder.mkdir()

    def words(name: str) -> tuple[str | Path, ...]:
        return ("export", place.account, folder / name, "--passphrase-fd", "0")

    def export(number: int, name: str) -> Ended:
        descriptor = os.open(tmp_path / "passphrase", os.O_RDONLY)
        try:
            return interrupted(number, "cbfs", *words(name), stdin=descriptor)
        finally:
            os.close(descriptor)

    whole = export(10**6, "whole")
    count = 10**6 - int(whole.lines[-1].split()[1])
    for number in moments(count, 8):
        done = export(number, "cut")
        if done.code == 130:
            check_interrupted(done)
            assert [path.name for path in folder.iterdir()] == ["whole"]
        else:
            (folder / "cut").unlink()
    assert export(10**6, "cut").code == 0


def test_ctrl_c_in_init_can_be_gone_on_from(tmp_path: Path) -> None:
    with world(tmp_path) as here:

        def words(name: str) -> tuple[str | Path, ...]:
            where = ("--account", tmp_path / f"{name}-account", "--server", here.server.url)
            return ("init", name, *where, "--names", tmp_path / "names" / "policy", "--no-tor")

        count = events("cbfs", *words("first"))
        for number in moments(count, 8):
            done = interrupted(number, "cbfs", *words("second"))
            if done.code == 0:
                break
            check_interrupted(done)
        else:
            assert run("cbfs", *words("second")).returncode == 0


def test_ctrl_c_in_a_demo_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    places = [Place(folder / f"{name}-account", folder / name) for name in ("alice", "bob")]
    reading = events("cbfs", "demo", "--help")  # as many as the imports are
    with no_mount_left(places[0]), no_mount_left(places[1]):
        for number, at in (
            (reading // 2, ""),
            (1, "cbfs-server"),  # the name directory runs
            (2, "cbfs"),  # alice's account is mounted, and bob makes his
            (1, "pathlib.Path.glob"),  # both are: it looks for what arrives, as often as it takes
        ):
            done = interrupted(number, "cbfs", "demo", folder, at=at)
            check_interrupted(done)
            assert not folder.exists()
            wait_for(lambda: not any(one.pids() for one in places) or None, "no process")


def test_ctrl_c_while_a_server_hangs(tmp_path: Path) -> None:
    """What it does not answer is not waited for."""
    with world(tmp_path) as here:
        server = here.server
        os.kill(server.pid, signal.SIGSTOP)
        where = ("--account", tmp_path / "account", "--server", server.url)
        words = ("init", "alice", *where, "--names", tmp_path / "names" / "policy", "--no-tor")
        with subprocess.Popen(
            ["env", "--default-signal=INT", *program("cbfs", *words)],
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        ) as process:
            assert process.stderr
            while "making an account" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)
            told = process.stderr.read()
            assert process.wait(WAIT) == 130
        os.kill(server.pid, signal.SIGCONT)
        assert told == "cbfs: interrupted\n"
        assert run("cbfs", *words).returncode == 0


def test_a_demo_that_cannot_unmount_removes_nothing(tmp_path: Path) -> None:
    """What is in a mount would be removed with it, message by message."""
    helper = tmp_path / "bin" / "fusermount3"
    helper.parent.mkdir()
    real = shutil.which("fusermount3")
    helper.write_text(f'#!/bin/sh\ncase "$1" in -u*) exit 1 ;; esac\nexec {real} "$@"\n')
    helper.chmod(0o755)
    folder = tmp_path / "demo"
    places = [Place(folder / f"{name}-account", folder / name) for name in ("alice", "bob")]
    with no_mount_left(places[0]), no_mount_left(places[1]):
        done = subprocess.run(
            program("cbfs", "demo", folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
            env={**ENVIRONMENT, "PATH": f"{helper.parent}:{os.environ['PATH']}"},
        )
        assert done.returncode == 1
        assert "is not removed: something is mounted on" in done.stderr
        assert "Traceback" not in done.stderr
        for place in places:
            assert list((place.mountpoint / "conversations").glob("*/*Z-alice*"))
            assert (place.account / "root.key").exists()
