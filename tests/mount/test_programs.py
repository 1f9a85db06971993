"""Every program saves as it does elsewhere, and each finished document is one message.

Each case runs in a plain folder and in a folder of the outbox. In the outbox it must tell the same,
leave the same behind, and what it has finished in the plain folder must be what is sent.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs.desktop import desktop_cases
from tests.programs.editors import editor_cases
from tests.programs.place import Case, Outbox, Place, Sentinel
from tests.programs.tools import tool_cases
from tests.support.mounted import mounted

pytestmark = pytest.mark.mount

GRACE = os.environ.get("SAVES_GRACE", "3")
"""Seconds. Longer than the default, for a machine that is so busy that a program takes a second
between two of the steps by which it saves."""

AT_ONCE: dict[Callable[[], Iterable[Case]], int] = {
    desktop_cases: 4,
    editor_cases: 12,
    tool_cases: 12,
}
TIMEOUT = 1_500.0
"""Seconds: LibreOffice alone needs more than a minute to begin where the machine is busy, and
begins four times in one of the cases."""


@dataclass
class Result:
    case: Case
    version: str
    expected: list[bytes]
    got: list[bytes]
    wrong: list[str]

    def row(self) -> str:
        verdict = "; ".join(self.wrong) or ("two for one, known" if self.case.known else "right")
        return (
            f"{self.case.program:<28} {self.version[:18]:<18} {self.case.scenario:<16}"
            f" {len(self.got):>8}  {verdict}"
        )


def drive(case: Case, disk: Path, mount: Sentinel) -> tuple[Place, Outbox, list[str]]:
    plain_folder = disk / "plain" / case.name
    plain_folder.mkdir(parents=True)
    plain = Place(plain_folder, disk / "plain-home" / case.name)
    case.drive(plain)
    outbox = Outbox(mount, case.name, disk / "home" / case.name)
    wrong = []
    try:
        case.drive(outbox)
    except (AssertionError, OSError) as error:
        wrong.append(f"{type(error).__name__}: {error}")
    if plain.told != outbox.told:
        wrong.append(f"told {outbox.told} instead of {plain.told}")
    return plain, outbox, wrong


def finished(case: Case, driven: tuple[Place, Outbox, list[str]]) -> Result:
    plain, outbox, wrong = driven
    got = outbox.received()
    if list(map(case.normal, got)) != list(map(case.normal, plain.messages)):
        wrong.append(f"sent {got!r:.300} instead of {plain.messages!r:.300}")
    killed = case.scenario.startswith("killed")  # it may not have come to clearing up
    if not killed and outbox.left() != plain.left():
        wrong.append(f"left {outbox.left()} instead of {plain.left()}")
    return Result(case, case.version(), plain.messages, got, wrong)


def results(cases: Iterable[Case], at_once: int) -> list[Result]:
    with (
        mounted(f"grace={GRACE}", TIMEOUT) as mount,
        tempfile.TemporaryDirectory(dir="/var/tmp") as place,
        ThreadPoolExecutor(at_once) as pool,
    ):
        sentinel = Sentinel(mount)
        cases = list(cases)
        driven = list(pool.map(lambda case: drive(case, Path(place), sentinel), cases))
        sentinel.pass_grace()
        sentinel.pass_grace()  # what was about to be sent then has been sent now
        return [finished(case, found) for case, found in zip(cases, driven, strict=True)]


def table(rows: list[Result]) -> str:
    head = f"{'program':<28} {'version':<18} {'scenario':<16} messages\n"
    return head + "\n".join(row.row() for row in rows)


@pytest.mark.timeout(TIMEOUT + 100)
@pytest.mark.parametrize("cases", AT_ONCE)
def test_each_finished_document_is_one_message(
    cases: Callable[[], Iterable[Case]], capsys: pytest.CaptureFixture[str]
) -> None:
    # nano says so when another one has just made it
    (Path.home() / ".local" / "share" / "nano").mkdir(parents=True, exist_ok=True)
    rows = results(cases(), AT_ONCE[cases])
    with capsys.disabled():
        print("\n" + table(rows))
    assert not [row.row() for row in rows if row.wrong]
