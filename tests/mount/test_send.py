"""``cbfs send`` puts files into the outbox, and waits until the servers have them."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import ENVIRONMENT, WAIT, User, World, program, run, wait_for, world

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, User, User]]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made, made.user("alice"), made.user("bob")


def drafts(user: User) -> list[str]:
    """What is in the outbox for bob, but for the settings of the conversation."""
    found = (user.mountpoint / "outbox" / "bob").iterdir()
    return [path.name for path in found if path.name != "metadata.toml"]


def test_it_ends_when_the_server_has_all(people: tuple[World, User, User], tmp_path: Path) -> None:
    _here, alice, bob = people
    big = os.urandom(3_000_000)
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "film.bin").write_bytes(big)
    files = (tmp_path / "note.txt", tmp_path / "film.bin")
    done = run("cbfs", "send", *files, "bob", "--mount", alice.mountpoint)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no bar where there is no terminal
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"note\.txt: bob: (sent|received)", first)
    assert re.fullmatch(r"film\.bin: bob: (sent|received)", second)
    assert drafts(alice) == []
    bob.wait_message("alice", "hello")
    wait_for(
        lambda: [path for path in bob.messages("alice") if path.read_bytes() == big],
        "the large one",
    )


def test_what_cannot_be_sent_is_said_and_nothing_is_left(
    people: tuple[World, User, User], tmp_path: Path
) -> None:
    _here, alice, _bob = people
    (tmp_path / "folder").mkdir()
    (tmp_path / "note").write_text("hello")
    for words, said in (
        ((tmp_path / "folder", "bob"), "is a folder"),
        ((tmp_path / "none", "bob"), "no such file"),
        ((tmp_path / "note", tmp_path / "none", "bob"), "no such file"),
        ((tmp_path / "note", "../tmp"), "is nobody"),
    ):
        done = run("cbfs", "send", *words, "--mount", alice.mountpoint)
        assert done.returncode == 1, done
        assert said in done.stderr
    outside = run("cbfs", "send", tmp_path / "note", "bob", "--mount", tmp_path)
    assert outside.returncode == 1
    assert "nothing of cbfs is mounted" in outside.stderr
    assert drafts(alice) == []


def test_who_does_not_exist_is_said(people: tuple[World, User, User], tmp_path: Path) -> None:
    _here, alice, _bob = people
    (tmp_path / "note").write_text("hello")
    done = run("cbfs", "send", tmp_path / "note", "nobody", "--mount", alice.mountpoint)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith("cbfs: error: note: ")
    assert "nobody" in error
    assert "the file stays in the outbox" in hint
    alice.run("rm -r outbox/nobody")


def test_who_does_not_wait_has_it_sent_all_the_same(
    people: tuple[World, User, User], tmp_path: Path
) -> None:
    here, alice, bob = people
    (tmp_path / "late").write_text("late")
    here.server.end()
    with subprocess.Popen(
        [*program("cbfs", "send", tmp_path / "late", "bob", "--mount", alice.mountpoint)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        wait_for(
            lambda: [p for p in alice.messages("alice") if p.read_bytes() == b"late"], "the message"
        )
        waiting.send_signal(signal.SIGINT)
        _out, said = waiting.communicate(timeout=WAIT)
    assert waiting.returncode == 130
    assert "interrupted" in said
    here.server.start()
    bob.wait_message("alice", "late")


def test_who_cannot_be_told_that_it_was_sent_is_not_told_that_it_was_not(
    people: tuple[World, User, User], tmp_path: Path
) -> None:
    _here, alice, bob = people
    (tmp_path / "note").write_text("told to nobody")
    words = program("cbfs", "send", tmp_path / "note", "bob", "--mount", alice.mountpoint)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            words,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=WAIT,
        )
    assert done.returncode == 1
    assert "nothing of it was sent" not in done.stderr
    assert "send it again" not in done.stderr
    bob.wait_message("alice", "told to nobody")
