"""Commands that read an account, mounted or not: history for other programs, lines for scripts."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.commands.reading import record, status_record
from cbfs.interface import Report
from cbfs.tree.texts import status_text
from tests.support.world import ENVIRONMENT, WAIT, User, run, wait_for, world

pytestmark = pytest.mark.mount

MANUAL = next((Path(__file__).parents[2] / "man").glob("cbfs.[0-9]"))


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """bob and carol have written to her, and she has read what bob wrote."""
    with world(tmp_path_factory.mktemp("w")) as made:
        alice, bob, carol = made.user("alice"), made.user("bob"), made.user("carol")
        for user, text in ((bob, "from bob\n"), (carol, "from carol\n")):
            user.run("mkdir outbox/alice")
            user.write("alice", "note", text)
            alice.wait_message(user.name, text)
        wait_for(lambda: not records(alice, "--unread", "--conversation", "bob"), "it to be read")
        yield alice


def records(user: User, *words: str, place: Path | None = None) -> list[dict[str, object]]:
    done = run("cbfs", "messages", place or user.mountpoint, "--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def documented(section: str) -> list[str]:
    """The fields that the manual page lists in a section."""
    text = MANUAL.read_text().partition(f".SH {section}\n")[2].partition("\n.SH ")[0]
    return re.findall(r"^\.TP\n\.I (\w+)$", text, re.MULTILINE)


def test_the_manual_has_the_fields_that_are_printed(alice: User) -> None:
    assert documented("MESSAGES AS JSON") == list(record.FIELDS)
    assert documented("STATUS AS JSON") == list(status_record.FIELDS)
    assert [tuple(each) for each in records(alice)] == [record.FIELDS] * 2
    done = run("cbfs", "status", alice.mountpoint, "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert tuple(status) == status_record.FIELDS
    assert (status["name"], status["account"]) == ("alice", str(alice.account))
    text = MANUAL.read_text()
    for field in (*record.FILE_FIELDS, *record.RECIPIENT_FIELDS):
        assert re.search(rf"^\.IR? {field}\b", text, re.MULTILINE)


def test_each_part_of_status_has_its_field() -> None:
    lists = ("queue", "problems", "unreceived", "arriving", "requests", "ending", "renaming")
    whole = {name: (f"{name}: one", f"{name}: two") for name in lists}
    report = Report("connected", ("over Tor",), envelopes_waiting=1, name="renewed", **whole)
    text = status_text("alice", report, [("outbox/bob/x", "why")])
    found = json.loads(status_record.as_json(text, None))
    assert {name: tuple(found[name]) for name in lists} == whole
    assert found["network"] == ["over Tor", "renewed"]
    assert found["outbox"] == ["outbox/bob/x: why"]
    assert (found["connection"], found["delivered"]) == ("connected", False)
    calm = status_text("alice", Report("connected", (), (), (), 0), [])
    assert json.loads(status_record.as_json(calm, None)) == {
        **{field: [] for field in status_record.SECTIONS.values()},
        **{"name": "alice", "connection": "connected", "network": [], "delivered": True},
        **{"account": None, "spool_waiting": 0, "spool_unreadable": 0},
    }


def test_messages_are_told_by_conversation_time_and_mark(alice: User) -> None:
    senders = {each["from"] for each in records(alice)}
    assert senders == {"bob", "carol"}
    (bobs,) = records(alice, "--conversation", "bob")
    assert records(alice, "--conversation", str(bobs["folder"])) == [bobs]
    assert bobs["text"] == "from bob\n"
    assert (alice.mountpoint / str(bobs["path"])).read_text() == "from bob\n"
    assert records(alice, "--since", "7d") == records(alice)
    assert records(alice, "--since", str(bobs["date"]), "--conversation", "bob") == [bobs]
    assert records(alice, "--since", "2999-01-01") == []
    assert not records(alice, "--unread", "--conversation", "bob")
    shown = run("cbfs", "messages", alice.mountpoint, "--conversation", "bob")
    assert re.fullmatch(r".*-bob-alice:\n\[.*\] bob: from bob\n", shown.stdout)
    none = run("cbfs", "messages", alice.mountpoint, "--conversation", "nobody")
    assert none.returncode == 1
    assert "there is no conversation 'nobody'" in none.stderr
    bad = run("cbfs", "messages", alice.mountpoint, "--since", "yesterday")
    assert bad.returncode == 2
    assert "'yesterday' is no time" in bad.stderr


def test_archives_are_the_same_beside_a_mount_and_without_one(alice: User, tmp_path: Path) -> None:
    def archived(place: Path, to: Path) -> list[Path]:
        to.mkdir()
        for option, name in (("--mbox", "m"), ("--html", "h"), ("--jsonl", "j")):
            done = run("cbfs", "export", place, option, to / name)
            assert done.returncode == 0, done.stderr
            assert "2 messages; not encrypted" in done.stdout
            assert not done.stderr  # no bar where there is no terminal
        return sorted(path for path in to.rglob("*") if path.is_file())

    beside = archived(alice.mountpoint, tmp_path / "beside")
    alice.unmount()
    try:
        without = archived(alice.account, tmp_path / "without")
        assert len(records(alice, place=alice.account)) == 2
    finally:
        alice.mount()
    assert [path.name for path in beside] == [path.name for path in without]
    assert [path.read_bytes() for path in beside] == [path.read_bytes() for path in without]
    again = run("cbfs", "export", alice.mountpoint, "--mbox", tmp_path / "beside" / "m")
    assert again.returncode == 1
    assert "is there already" in again.stderr


@pytest.mark.parametrize("words", [(), ("FILE", "--mbox", "OTHER")])
def test_an_export_has_one_place_to_go_to(
    alice: User, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cbfs.commands.main", "export", alice.mountpoint, *words],
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 2
    assert "name one FILE to write, or one of --mbox, --html and --jsonl" in done.stderr
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from cbfs.commands.reading import archive
from cbfs.commands import main
real = archive.{kind}.add
def add(self, told):
    real(self, told)
    if told.message.sender == "carol":
        os.kill(os.getpid(), signal.SIGKILL)
archive.{kind}.add = add
sys.argv = ["cbfs", "export", *sys.argv[1:]]
main.main()
"""


@pytest.mark.parametrize(
    ("option", "kind"), [("--mbox", "Mbox"), ("--html", "HtmlPages"), ("--jsonl", "Lines")]
)
def test_what_is_killed_leaves_a_part_and_nothing_else(
    alice: User, tmp_path: Path, option: str, kind: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(kind=kind), alice.mountpoint, option, tmp_path / "x"],
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert all(re.fullmatch(r"\.cbfs-\w+\.part", path.name) for path in tmp_path.iterdir())
    assert run("cbfs", "export", alice.mountpoint, option, tmp_path / "x").returncode == 0


def test_names_are_printed_for_a_shell(alice: User, tmp_path: Path) -> None:
    def words(*asked: str) -> list[str]:
        done = run("cbfs", "complete", *asked, "--mount", alice.mountpoint)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    folders = sorted(str(each["folder"]) for each in records(alice))
    assert words("contacts") == ["bob", "carol"]
    assert words("contacts", "b") == ["bob"]
    assert words("conversations") == folders
    assert words("recipients") == sorted(["bob", "carol", *folders])
    assert words("mounts") == [str(alice.mountpoint)]
    assert words("contacts", "nobody") == []
    elsewhere = run("cbfs", "complete", "contacts", "--mount", tmp_path / "none")
    assert (elsewhere.returncode, elsewhere.stdout, elsewhere.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("exprot", "there is no command 'exprot'; did you mean export?"),
        ("Status", "there is no command 'Status'; did you mean status?"),
        ("zzzz", "there is no command 'zzzz'; cbfs --help lists them"),
    ],
)
def test_a_command_that_does_not_exist_is_told_by_one_that_does(word: str, said: str) -> None:
    done = run("cbfs", word)
    assert done.returncode == 2
    assert said in done.stderr
    assert "choose from" not in done.stderr
