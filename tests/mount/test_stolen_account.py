"""Somebody has copied an account: what they do to the name with our own programs, while its owner
key is kept apart. All real processes."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.project.test_questions import Terminal
from tests.support.world import ENVIRONMENT, WAIT, World, program, run, wait_for, world

pytestmark = pytest.mark.mount


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made


def name(account: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``cbfs name``, where there is no terminal to type words at."""
    words = program("cbfs", "name", *arguments, "--account", account, "--no-tor")
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def entry(account: Path) -> str:
    """What the directory has for the account's name."""
    done = name(account, "show")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("made here")[0]


def test_a_thief_of_the_account_does_not_get_the_name(here: World) -> None:
    alice, bob = here.user("alice"), here.account("bob")
    early, late, key = here.place / "early", here.place / "late", here.place / "owner"
    shutil.copytree(bob.account, early)
    done = name(bob.account, "owner-key", "--move-to", key)
    assert done.returncode == 0, done.stderr
    assert key.stat().st_mode & 0o777 == 0o600
    assert not set(key.read_text().split()[-24:]) <= set((done.stdout + done.stderr).split())
    bob.mount()
    (alice.mountpoint / "outbox" / "bob").mkdir()
    alice.write("bob", "hi", "hello\n")
    bob.wait_message("alice", "hello\n")
    bob.unmount()
    shutil.copytree(bob.account, late)
    before = entry(bob.account)

    away = here.another_server("away").url
    attempts = (
        ("rotate", "--stolen"),
        ("update", "--server", away),
        ("owner-key", "--move-to", here.place / "thief"),
        ("cancel",),
        ("release", "bob"),
        ("freeze", here.place / "certificate"),
    )
    for copy in (early, late):
        for words in attempts[: 4 if copy is early else None]:
            done = name(copy, *words)
            assert done.returncode == 1, (copy, words, done.stdout)
            wanted = (
                "takes the owner key" if copy is late else "refuse|not signed|no recovery|another"
            )
            assert re.search(wanted, done.stderr), (words, done.stderr)
            assert entry(bob.account) == before

    done = name(late, "freeze")
    assert done.returncode == 0, done.stderr
    assert "cbfs name rotate" in done.stdout
    assert re.search(r"status: +suspended", entry(bob.account))
    assert name(late, "renew").returncode == 1
    done = name(bob.account, "rotate", "--stolen", "--owner-key", key)
    assert done.returncode == 0, done.stderr
    freed = entry(bob.account)
    assert re.search(r"status: +active", freed)
    assert re.search(r"owner keys: .*", freed)[0] == re.search(r"owner keys: .*", before)[0]  # type: ignore[index]
    assert re.search(r"agent key: .*", freed)[0] != re.search(r"agent key: .*", before)[0]  # type: ignore[index]
    assert name(late, "freeze").returncode == 1
    assert entry(bob.account) == freed
    bob.mount()
    (folder,) = (path.name for path in (bob.mountpoint / "conversations").iterdir())
    bob.write(folder, "re", "with new keys\n")
    alice.wait_message("bob", "with new keys\n")


def _is_hidden(terminal: Terminal) -> bool:
    """Whether what is typed is not shown."""
    return not terminal.echoes()


def test_who_has_lost_the_computer_has_the_name_back_by_words_on_paper(here: World) -> None:
    """As the manual says it: the file is written on paper and deleted, and the words are typed,
    once with a slip and once in part only."""
    alice, lost, key = here.user("alice"), here.place / "lost", here.place / "owner"
    home = "--server", here.server.url, "--names", here.place / "names" / "policy", "--no-tor"
    done = run("cbfs", "init", "carol", *home, "--owner-key", key, "--account", lost)
    assert done.returncode == 0, done.stderr
    paper = key.read_text().split()[-24:]
    key.unlink()
    shutil.rmtree(lost)
    found = here.place / "found"
    slip = [*paper[:9], "werd", *paper[10:]]
    line_of_it = " ".join(paper[:6])
    numbered = ", ".join(f"{n}. {word[:4].upper()}" for n, word in enumerate(paper[6:], 7))
    for typed, said in (
        ((line_of_it, ""), "these are 6 words, not 24"),
        ((" ".join(slip),), "word 10 is not one of the list"),
        (("Gr\udcfc\udcdfe",), "not UTF-8"),
        ((line_of_it, numbered), "carol is yours again."),
    ):
        terminal = Terminal("cbfs", "name", "recover", "carol", *home, "--account", found)
        terminal.wait("the 24 words of the owner key of carol: ")
        for number, line in enumerate(typed):
            if number:
                terminal.wait(f"the other {24 - 6 * number}: ")
            wait_for(partial(_is_hidden, terminal), "it to read")
            terminal.type(f"{line}\n")
        terminal.wait(said)
        mended = "yours again" in said
        if mended:
            terminal.wait(f"mount.cbfs {found} MOUNTPOINT --no-tor")
        assert terminal.end() == (0 if mended else 1)
        assert " ".join(paper[:2]) not in terminal.shown
        assert found.exists() is mended
    mountpoint = here.place / "carol"
    mountpoint.mkdir()
    done = run("mount.cbfs", found, mountpoint, "--no-tor")
    assert done.returncode == 0, done.stderr
    try:
        (mountpoint / "outbox" / "alice").mkdir()
        (mountpoint / "outbox" / "alice" / "note").write_text("here I am\n")
        alice.wait_message("carol", "here I am\n")
    finally:
        subprocess.run(["fusermount3", "-u", mountpoint], check=True, timeout=WAIT)
