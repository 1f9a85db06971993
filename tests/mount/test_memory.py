"""What keeps keys in memory from a disk, and from other programs of the same user."""

import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing

from cbfs.commands import main as cbfs_program
from cbfs.commands.mount import program as mount_program
from cbfs.commands.mount import serving
from cbfs.commands.process import memory
from tests.mount.test_passphrase import cbfs
from tests.support.world import World

ROOT = Path(__file__).parents[2]
NOBODY = 65_534
AS_SOMEBODY = f"""
import ctypes, os, sys
from cbfs.commands.process import memory
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})  # which nobody may look into any more
    ctypes.CDLL(None).prctl(memory._PR_SET_DUMPABLE, 1, 0, 0, 0)
"""
"""Root may look into everything: so both are programs of a user who is not."""

PROGRAM = (
    AS_SOMEBODY
    + """
if sys.argv[1] == "True": memory.protect()
print("ready", flush=True)
sys.stdin.read()
"""
)
LOOK = (
    AS_SOMEBODY
    + """
for name in ("mem", "environ"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb"): print(name)
    except PermissionError: pass
"""
)
"""What a debugger must be allowed to as well (ptrace(2), PTRACE_MODE)."""


def somebody(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_another_program_of_the_same_user_cannot_look_into_it() -> None:
    seen = {}
    for protects in (True, False):
        with somebody(PROGRAM, str(protects)) as program:
            assert program.stdout is not None
            assert program.stdin is not None
            assert program.stdout.readline() == "ready\n"
            with somebody(LOOK, str(program.pid)) as other:
                seen[protects] = other.communicate()[0].split()
            program.stdin.close()
    assert seen[True] == []
    assert "environ" in seen[False]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


class Protected(BaseException):
    """It was asked for."""


@pytest.mark.parametrize("program", [cbfs_program.main, mount_program.main])
def test_programs_protect_themselves_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[], int]
) -> None:
    def protect() -> None:
        raise Protected

    monkeypatch.setattr(memory, "protect", protect)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(Protected):
        program()


def locked(pid: int) -> int:
    """KiB of a process that stay in memory."""
    words = Path(f"/proc/{pid}/status").read_text().split("VmLck:")[1].split()
    return int(words[0])


@pytest.mark.mount
def test_the_memory_of_a_mount_is_locked_where_all_of_it_may_be(here: World) -> None:
    alice = here.user("alice")
    (pid,) = alice.pids()
    assert (locked(pid) > 0) is memory.may_lock()
    if memory.may_lock():
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4
        assert locked(pid) > resident / 2


ENTER = (
    AS_SOMEBODY
    + """
for place in sys.argv[1:]:
    try:
        os.listdir(place)
        print(place)
    except PermissionError: pass
"""
)


@pytest.mark.mount
def test_another_user_cannot_enter_the_mount_or_the_account() -> None:
    """Where nothing above is closed to them."""
    with TemporaryDirectory() as directory, ExitStack() as stack:
        place = Path(directory)
        place.chmod(0o755)
        (place / "open").mkdir(mode=0o755)
        alice = World(place, stack).user("alice")
        inside = alice.account, alice.account / "store", alice.mountpoint
        assert {stat.S_IMODE(each.stat().st_mode) for each in inside} == {0o700}
        assert (
            "allow_other"
            not in Path("/proc/self/mounts")
            .read_text()
            .split(str(alice.mountpoint))[1]
            .split("\n")[0]
        )
        if os.geteuid() == 0:  # or there is nobody else to be
            asked = [str(each) for each in (place / "open", *inside)]
            with somebody(ENTER, *asked) as other:
                assert other.communicate()[0].split() == asked[:1]


@pytest.mark.mount
def test_no_secret_is_in_a_process_list(here: World) -> None:
    """Not the passphrase, nor a key, while programs run that have been told it."""
    alice = here.account("alice")
    secret = "correct horse battery staple"
    cbfs("cbfs", "passphrase", alice.account, said={"--passphrase-fd ": secret.encode()})
    mount = "mount.cbfs", alice.account, alice.mountpoint, "--no-tor"
    assert cbfs(*mount, said={"-o passphrase_fd=": secret.encode()}) == ""
    (pid,) = alice.pids()
    for name in ("cmdline", "environ"):
        shown = Path(f"/proc/{pid}/{name}").read_bytes()
        assert secret.encode() not in shown
        assert b"horse" not in shown
    alice.unmount()


def _resident(file: Path) -> int:
    """KiB of a file that are in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith(str(file)))
    return int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1])


def test_what_was_read_of_a_mapped_file_is_let_go_of(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a store.mdb", "another")]
    for file in files:
        file.write_bytes(os.urandom(1 << 20))
    with ExitStack() as stack:
        maps = []
        for file in files:
            opened = stack.enter_context(file.open("rb"))
            maps.append(stack.enter_context(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)))
        contents = [bytes(each) for each in maps]
        assert [_resident(file) for file in files] == [1_024, 1_024]
        memory.let_go_of(files[0])
        assert [_resident(file) for file in files] == [0, 1_024]
        assert [bytes(each) for each in maps] == contents
        memory.let_go_of(tmp_path / "gone")  # which is no matter


def test_a_mount_lets_go_of_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(serving, "LET_GO_PERIOD", 1.0)
    monkeypatch.setattr(memory, "let_go_of", seen.append)

    async def script() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving._let_go, Path("store"))
            await trio.sleep(2.5)
            nursery.cancel_scope.cancel()

    trio.run(script, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen == [Path("store")] * 2
