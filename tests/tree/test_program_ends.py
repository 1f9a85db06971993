"""When programs that change files have ended, and whether more follows: real processes."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.outbox import programs
from cbfs.outbox.programs import Programs
from cbfs.storage.faults import Tasks
from cbfs.tree.processes import Process, ProcFS
from tests.support.world import WAIT, wait_for


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """It runs until its standard input ends, or the block. That is no pipe: who reads from one goes
    on."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.PIPE) as process:
        theirs.close()
        process.stdin = os.fdopen(ours.detach(), "wb", buffering=0)
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def known(pid: int) -> Process:
    process = ProcFS().of_thread(pid)
    assert process is not None
    return process


def watch(body: Callable[[Programs, trio.MemoryReceiveChannel[None]], Awaitable[None]]) -> None:
    """``body`` with the programs of a mount, and what is told when one has ended."""

    async def main() -> None:
        told, news = trio.open_memory_channel[None](100)
        with trio.fail_after(WAIT):
            async with trio.open_nursery() as nursery:
                tasks = Tasks(nursery, lambda: None)
                await body(Programs(ProcFS(), tasks, lambda: told.send_nowait(None)), news)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_end_of_a_program_is_told() -> None:
    async def body(seen: Programs, news: trio.MemoryReceiveChannel[None]) -> None:
        with program("cat") as cat, program("cat") as other:
            process, living = seen.seen(cat.pid), seen.seen(other.pid)
            assert process == known(cat.pid)
            assert living is not None
            assert process == seen.seen(cat.pid)
            assert seen.ended(process) is None
            end(cat)
            await news.receive()  # it is not waited for: the kernel tells of a zombie, too
            assert seen.ended(process) is not None
            assert not seen.is_alive(process)
            assert seen.ended(living) is None
            assert seen.is_alive(living)
            # another one that has got its id is another one
            assert seen.ended(replace(process, start=process.start + 1)) is None

    watch(body)


def test_of_a_thread_its_program_is_seen() -> None:
    async def body(seen: Programs, news: trio.MemoryReceiveChannel[None]) -> None:
        script = (
            "import sys, threading\n"
            "def run():\n"
            " print(threading.get_native_id(), flush=True); sys.stdin.read()\n"
            "thread = threading.Thread(target=run); thread.start(); thread.join()"
        )
        with program("python3", "-c", script) as python:
            thread = int(line(python))
            assert thread != python.pid
            process = seen.seen(thread)
            assert process == known(python.pid)
            end(python)
            await news.receive()
            assert seen.ended(process) is not None

    watch(body)


def test_nobody_knows_of_what_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(seen: Programs, news: trio.MemoryReceiveChannel[None]) -> None:
        assert seen.seen(0) is None  # so the kernel calls a process of another namespace
        monkeypatch.setattr(programs, "WATCHED_MAX", 1)
        with program("cat") as cat, program("cat") as other:
            first, second = seen.seen(cat.pid), seen.seen(other.pid)
            assert first is not None
            assert second is not None
            end(other)
            other.wait(WAIT)
            end(cat)
            await news.receive()
            assert seen.ended(first) is not None
            assert seen.ended(second) is None
            assert seen.is_followed(second)

    watch(body)


def test_who_is_above_a_program() -> None:
    with program("sh", "-c", "sh -c 'echo $$; read answer; :'; :") as shell:
        inner = known(int(line(shell)))
        above = ProcFS().above(inner)
        assert above[:2] == (known(shell.pid), known(os.getpid()))
        assert all(each.pid != 1 for each in above)
        assert ProcFS().above(replace(inner, pid=1)) == ()


def test_a_shell_goes_on_while_it_has_something_to_do(tmp_path: Path) -> None:
    """Between two commands, however long that takes, it is never asleep without a child."""
    processes = ProcFS()
    with program("sh", "-c", "cat; echo next; read answer") as shell:
        cat = wait_for(lambda: (*_children(shell.pid), None)[0], "cat")
        ended = replace(cat, start=cat.start - 1)  # what it had started before cat
        parent = known(shell.pid)
        assert processes.goes_on(parent, ended)
        wait_for(lambda: not _is_awake(parent), "the shell to wait for cat")
        assert not processes.goes_on(parent, replace(cat, start=cat.start + 1))
        os.kill(cat.pid, signal.SIGTERM)
        line(shell)
        wait_for(lambda: not processes.goes_on(parent, ended), "the shell to wait for an answer")
    with program("sh", "-c", "while :; do :; done") as busy:
        busy_one = known(busy.pid)
        assert processes.goes_on(busy_one, ended)
    busy.wait()
    assert not processes.goes_on(busy_one, ended)


def test_a_program_goes_on_while_what_one_of_its_threads_has_started_runs() -> None:
    script = (
        "import subprocess, threading\n"
        "thread = threading.Thread(target=subprocess.run, args=(['cat'],))\n"
        "thread.start(); thread.join()"
    )
    processes = ProcFS()
    with program(sys.executable, "-c", script) as python:
        (cat,) = wait_for(lambda: [c for c in _children(python.pid) if c.name == "cat"], "cat")
        parent = known(python.pid)
        wait_for(lambda: not _is_awake(parent), "the program to wait for its thread")
        assert processes.goes_on(parent, replace(cat, start=cat.start - 1))
        end(python)
        python.wait(WAIT)
        assert not processes.goes_on(parent, cat)


def test_a_program_without_standard_input_is_at_rest_when_it_sleeps() -> None:
    script = "import os; copy = os.dup(0); os.close(0); print(os.read(copy, 1), flush=True)"
    with program(sys.executable, "-c", script) as python:
        sleeper = known(python.pid)
        wait_for(lambda: not ProcFS().goes_on(sleeper, sleeper), "the program to sleep")
        end(python)
        assert line(python) == "b''"


def test_a_loop_over_what_comes_by_a_pipe_goes_on() -> None:
    """Between two lines it may sleep for as long as the other end has nothing to say."""
    loop = """sh -c 'echo $$; while read line; do sh -c "echo $line"; done'"""
    with program("sh", "-c", f"cat | {loop}") as shell:
        reader = known(int(line(shell)))
        assert shell.stdin is not None
        shell.stdin.write(b"first\n")
        assert line(shell) == "first"
        wait_for(lambda: not _children(reader.pid) and not _is_awake(reader), "it to read on")
        assert ProcFS().goes_on(reader, reader)
        end(shell)
        shell.wait(WAIT)
        assert not ProcFS().goes_on(reader, reader)


def test_what_follows_a_program_is_looked_for_at_the_nearest_that_lives() -> None:
    async def body(seen: Programs, news: trio.MemoryReceiveChannel[None]) -> None:
        between = """sh -c 'sh -c "echo \\$\\$; read answer; :"; :'"""
        with program("sh", "-c", f"{between}; echo next; read answer") as shell:
            inner = seen.seen(int(line(shell)))
            assert inner is not None
            os.kill(inner.pid, signal.SIGTERM)
            await news.receive()
            assert line(shell) == "next"
            wait_for(lambda: not seen.is_followed(inner), "the shell to wait for an answer")
            end(shell)
            shell.wait(WAIT)

    watch(body)


def _children(pid: int) -> list[Process]:
    """What any of its threads has started."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = (int(child) for told in threads for child in told.read_text().split())
    return [child for child in map(ProcFS().of_thread, children) if child is not None]


def _is_awake(process: Process) -> bool:
    told = Path(f"/proc/{process.pid}/stat").read_text()
    return told.rpartition(") ")[2][0] != "S"
