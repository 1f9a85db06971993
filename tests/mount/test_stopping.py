"""What lets a daemon neither hang at its log nor outlive a signal."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.commands.process.logs import LINES_MAX, LogFile
from tests.support.world import ENVIRONMENT, WAIT


@pytest.fixture
def log() -> Iterator[LogFile]:
    made = LogFile(logging.Formatter("%(message)s"))
    yield made
    made.close()


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("cbfs", logging.WARNING, "", 0, text, (), None)


def test_a_log_that_nobody_reads_holds_up_nothing(log: LogFile) -> None:
    reading, writing = os.pipe()
    log.into(writing)
    line = "x" * 200
    for _ in range(3 * LINES_MAX):  # a pipe holds 64 KiB
        log.handle(record(line))
    told = ""
    left_out = re.compile(r"^(\d+) lines were left out: nobody read them\n", re.MULTILINE)
    with open(reading, encoding="ascii") as pipe:  # noqa: PTH123 - a descriptor
        while told.count(f"{line}\n") + sum(map(int, left_out.findall(told))) < 3 * LINES_MAX:
            told += os.read(pipe.fileno(), 65_536).decode()
        assert left_out.search(told)
        log.handle(record("and again"))
        while "and again\n" not in told:
            told += os.read(pipe.fileno(), 65_536).decode()
        log.close()
    assert told.count(f"{line}\n") + sum(map(int, left_out.findall(told))) == 3 * LINES_MAX
    os.close(writing)


def test_a_log_keeps_what_was_said_before_it_led_anywhere(log: LogFile, tmp_path: Path) -> None:
    log.handle(record("before"))
    log.into(os.open(tmp_path / "first", os.O_WRONLY | os.O_CREAT))
    log.handle(record("then"))
    log.into(os.open(tmp_path / "second", os.O_WRONLY | os.O_CREAT))
    log.handle(record("\udcff at last"))
    assert (tmp_path / "first").read_text() == "before\nthen\n"
    assert (tmp_path / "second").read_text() == "\\udcff at last\n"


def test_a_log_that_cannot_be_written_stops_nothing(log: LogFile) -> None:
    log.into(os.open("/dev/full", os.O_WRONLY))
    log.handle(record("lost"))


STUCK = """
import signal, sys, time, trio
from cbfs.mount import mounting
mounting.END_LIMIT = 0.5
async def main():
    stop = mounting.stop_event(None)
    print("ready", flush=True)
    await stop.wait()
    while True:  # a daemon that hangs while it ends
        time.sleep(60)
trio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_a_daemon_that_hangs_at_its_end_is_ended(number: signal.Signals) -> None:
    with subprocess.Popen(
        ["env", "--default-signal", sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(WAIT) == -signal.SIGALRM
