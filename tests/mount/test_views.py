"""unread/, by-date/, search/ and transcripts, on a real mount."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, Watch, mounted
from tests.support.world import WAIT, wait_for

pytestmark = pytest.mark.mount


@pytest.fixture
def mount() -> Iterator[Mounted]:
    with mounted() as made:
        yield made


def arrive(mount: Mounted, sender: str, *texts: str) -> None:
    """They are shown, and in unread/."""
    before = set(names(mount, "unread"))
    for text in texts:
        mount.arrive(sender, text)
    wait_for(
        lambda: len(set(names(mount, "unread")) - before) == len(texts) or None, "the arrivals"
    )


def names(mount: Mounted, folder: str) -> list[str]:
    return sorted(path.name for path in (mount.path / folder).iterdir())


def texts(mount: Mounted, folder: str) -> list[str]:
    """Of all messages that a view leads to, in order of names. Clears nothing: see below."""
    return sorted(mount.run(f"tar -chf - {folder} | tar -xOf - | cat").split())


def test_reading_to_the_end_clears_unread_and_nothing_else_does(mount: Mounted) -> None:
    arrive(mount, "bob", "one", "two")
    first, second = names(mount, "unread")
    looker = shutil.copy(shutil.which("cat") or "cat", mount.account / "tumblerd")
    mount.run("ls -lR . > /dev/null; stat unread/* > /dev/null; find . > /dev/null")
    mount.run(f"{looker} unread/* > /dev/null; head -c 3 unread/{first} > /dev/null")
    assert names(mount, "unread") == [first, second]
    watch = Watch(mount.path / "unread")
    assert mount.run(f"cat unread/{first}") == "one\n"
    wait_for(lambda: names(mount, "unread") == [second] or None, "the link to go")
    watch.close()
    assert len(mount.messages("bob")) == 2
    wait_for(lambda: not names(mount, "unread") or None, "reading under conversations/ to count")


def test_a_link_is_removed_and_the_message_stays(mount: Mounted) -> None:
    arrive(mount, "bob", "one")
    mount.run("rm unread/*")
    assert names(mount, "unread") == []
    assert mount.messages("bob") == ["one\n"]


def test_the_link_of_what_has_just_been_read_is_removed(mount: Mounted) -> None:
    arrive(mount, "bob", "one", "two")
    first, second = names(mount, "unread")
    mount.run(f"cat unread/{first} unread/{second}; rm -f unread/{first}")
    assert first not in names(mount, "unread")
    wait_for(lambda: not names(mount, "unread") or None, "the other one to go")


def test_what_is_unread_stays_so_over_an_unmount(mount: Mounted) -> None:
    arrive(mount, "bob", "one", "two", "three")
    first, *left = names(mount, "unread")
    mount.run(f"cat unread/{first} > /dev/null")
    wait_for(lambda: names(mount, "unread") == left or None, "the link to go")
    mount.unmount()
    mount.mount()
    assert names(mount, "unread") == left


def test_watchers_see_unread_messages_come(mount: Mounted) -> None:
    watch = Watch(mount.path / "unread")
    arrive(mount, "bob", *map(str, range(50)))
    watch.wait("-bob", 50)
    watch.close()


def test_watchers_see_all_go_that_are_read_at_once(mount: Mounted) -> None:
    arrive(mount, "bob", *map(str, range(200)))
    watch = Watch(mount.path / "unread", Watch.GOES)
    assert mount.run("cat unread/* | wc -l") == "200\n"
    watch.wait("-bob", 200)
    watch.close()
    wait_for(lambda: not names(mount, "unread") or None, "the links to go")
    assert "watchers" not in mount.log()


def test_what_is_read_before_anybody_looks_at_unread_is_not_in_it(mount: Mounted) -> None:
    arrive(mount, "bob", "one", "two", "three")
    folder = next((mount.path / "conversations").iterdir()).name
    mount.unmount()
    mount.mount()
    first, *left = names(mount, f"conversations/{folder}")[:3]
    assert mount.run(f"cat conversations/{folder}/{first}") == "one\n"
    assert names(mount, "unread") == left
    mount.unmount()
    mount.mount()
    assert names(mount, "unread") == left


def test_what_was_deleted_is_in_no_view(mount: Mounted) -> None:
    arrive(mount, "bob", "apple pear", "apple plum")
    day = names(mount, "by-date")[0]
    assert len(names(mount, f"by-date/{day}")) == len(names(mount, "search/apple")) == 2
    mount.run("rm $(readlink -f unread/* | head -n 1)")
    for view in ("unread", f"by-date/{day}", "search/apple"):
        wait_for(partial(lambda v: len(names(mount, v)) == 1 or None, view), view)
    assert names(mount, "search/pear") == []
    transcript = next(mount.path.glob("conversations/*/transcript")).read_text()
    assert "plum" in transcript
    assert "pear" not in transcript


def test_days_lead_to_their_messages(mount: Mounted) -> None:
    arrive(mount, "bob", "one")
    arrive(mount, "carol", "two")
    (day,) = names(mount, "by-date")
    assert names(mount, f"by-date/{day}")[0].startswith(day)
    assert texts(mount, f"by-date/{day}") == ["one", "two"]
    assert not (mount.path / "by-date" / "2020-01-01").exists()


def test_searches_find_words_people_and_places(mount: Mounted) -> None:
    arrive(mount, "bob", "Lunch at ten", "no")
    arrive(mount, "carol", "lunch at two")
    assert len(names(mount, "search/LUNCH")) == 2
    assert len(names(mount, "search/lunch at")) == 2
    assert len(names(mount, "search/lunch from:carol")) == 1
    assert len(names(mount, "search/in:bob after:2020-01-01")) == 2
    assert names(mount, "search/before:2020-01-01") == []
    assert names(mount, "search/nothing") == []
    arrive(mount, "dave", "nothing")
    assert len(names(mount, "search/nothing")) == 1, "a search stays right"
    for bad in ("from:", ".hidden", "after:never", "!"):
        assert not (mount.path / "search" / bad).exists()
    assert names(mount, "search") == []
    done = subprocess.run(
        ["rm", mount.path / "search/lunch" / names(mount, "search/lunch")[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Permission denied" in done.stderr


def test_own_messages_are_found_and_not_unread(mount: Mounted) -> None:
    mount.run("mkdir outbox/bob; echo sent words > outbox/bob/note")
    wait_for(lambda: names(mount, "search/words") or None, "the message")
    assert names(mount, "unread") == []


def test_a_transcript_grows_under_tail(mount: Mounted) -> None:
    arrive(mount, "bob", "first")
    path = next(mount.path.glob("conversations/*/transcript"))
    tail = subprocess.Popen(["tail", "-n", "+1", "-f", path], stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    try:
        assert tail.stdout.readline().endswith("] bob: first\n")
        mount.arrive("bob", "second \x1b[2J")
        assert tail.stdout.readline().endswith("] bob: second \N{REPLACEMENT CHARACTER}[2J\n")
    finally:
        tail.kill()
        tail.wait(WAIT)
        tail.stdout.close()
    whole = path.read_bytes()
    assert path.stat().st_size == len(whole)
    assert whole[10:].startswith(read_at(path, 10, 20))


def read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)
