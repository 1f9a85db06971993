"""Programs keep their state in ui_info/: databases, repositories, mailboxes, copies."""

import mailbox
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounted import Mounted, mounted
from tests.support.world import wait_for

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    with mounted("grace=3600") as mount:
        yield mount


@pytest.fixture
def place(request: pytest.FixtureRequest, mount: Mounted) -> Path:
    folder: Path = mount.path / "ui_info" / request.node.name.replace("[", "-").replace("]", "")
    folder.mkdir()
    return folder


@pytest.mark.parametrize("journal", ["delete", "wal", "truncate"])
def test_a_database(place: Path, mount: Mounted, journal: str) -> None:
    """Two connections, of which one reads while the other writes; and after a remount."""
    file = place / "state.db"
    with sqlite3.connect(file) as one, sqlite3.connect(file) as two:
        assert one.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        one.execute("create table words (word text primary key)")
        for number in range(30):
            one.execute("insert into words values (?)", (f"{number}" * 50,))
            one.commit()
            assert two.execute("select count(*) from words").fetchone() == (number + 1,)
        one.execute("delete from words where word < '2'")
        one.rollback()
    one.close()
    two.close()
    mount.unmount()
    mount.mount()
    with sqlite3.connect(file) as again:
        assert again.execute("pragma integrity_check").fetchone() == ("ok",)
        assert again.execute("select count(*) from words").fetchone() == (30,)
    again.close()


def test_a_repository(place: Path, mount: Mounted) -> None:
    """Its objects are made with mode 0444, and renamed or linked into place."""
    mount.run(
        f"""cd '{place}'
        git init -q one; cd one
        git config user.name alice; git config user.email alice@localhost
        for n in 1 2 3; do seq $n 2000 > file$n; git add .; git commit -qm $n; done
        git mv file1 moved; git commit -qm moved; git gc -q; git fsck --strict 2>/dev/null
        cd ..; git clone -q one two 2>/dev/null; git -C two fsck --strict 2>/dev/null
        test -z "$(git -C two status --porcelain)"
        """
    )
    packs = list((place / "one").glob(".git/objects/pack/*.pack"))
    assert [path.stat().st_mode & 0o777 for path in packs] == [0o444]
    mount.unmount()
    mount.mount()
    assert mount.run(f"git -C '{place}/two' status --porcelain") == ""
    assert mount.run(f"git -C '{place}/two' diff HEAD") == ""


@pytest.mark.parametrize("kind", [mailbox.Maildir, mailbox.mbox, mailbox.MH])
def test_a_mailbox(place: Path, kind: Callable[..., mailbox.Mailbox[Any]]) -> None:
    """They lock, link, rename and rewrite."""
    box = kind(str(place / "box"), create=True)
    letter = EmailMessage()
    letter["Subject"] = "hello"
    letter.set_content("one line\n")
    for _ in range(5):
        box.lock()
        box.add(letter)
        box.flush()
        box.unlock()
    keys = list(box.keys())
    box.lock()
    box.remove(keys[2])
    box.flush()
    box.unlock()
    box.close()
    again = kind(str(place / "box"), create=False)
    assert [message["Subject"] for message in again] == ["hello"] * 4
    again.close()


def test_copies(place: Path, tmp_path: Path) -> None:
    """With hard links, links, holes, modes and dates; out of the mount and into it again."""
    source = tmp_path / "source"
    script = f"""set -e
        mkdir -p '{source}/below'; cd '{source}'
        echo one > one; ln one two; ln -s one link; ln -P link again; chmod 640 one
        dd if=/dev/zero of=hole bs=1 count=1 seek=300000 status=none
        printf part | dd of=one conv=notrunc bs=1 seek=2 status=none
        touch -d 2001-02-03 below/old; chmod 2750 below; touch -hd 2002-03-04 link
        rsync -aH '{source}/' '{place}/copy/'
        tar -C '{place}' -cf - copy | tar -C '{tmp_path}' -xpf -
        rsync -aHnic --delete '{source}/' '{tmp_path}/copy/'
        rsync -aHnic --delete '{source}/' '{place}/copy/'
        diff -r --no-dereference '{source}' '{place}/copy'
        mv '{place}/copy' '{place}/moved'; cp -a '{place}/moved' '{place}/once more'
        rsync -aHnic --delete '{source}/' '{place}/once more/'
        find '{place}/moved' -links 2 -type f | wc -l
    """
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["2"], "")


def test_a_message_is_moved_out(mount: Mounted) -> None:
    """mv copies and removes it, the outbox takes it as a draft."""
    mount.arrive("bob", "to be moved")
    mount.arrive("bob", "to be sent on")
    wait_for(lambda: len(mount.messages("bob")) == 2, "two messages")
    first, second = sorted((mount.path / "conversations").glob("*/*Z-bob*"), key=Path.read_text)
    assert first.read_text() == "to be moved\n"
    (mount.path / "outbox" / "carol").mkdir()
    for path, place in ((first, "ui_info"), (second, "outbox/carol")):
        text = path.read_text()
        subprocess.run(["mv", str(path), str(mount.path / place)], check=True)
        assert (mount.path / place / path.name).read_text() == text
        assert not path.exists()
    assert mount.messages("bob") == []
