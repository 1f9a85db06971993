"""mail/ on a real mount, with the programs that read mail."""

import email
import errno
import mailbox
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from email.policy import default
from pathlib import Path

import pytest

from tests.support.mounted import ROOT, Mounted, Watch, mounted
from tests.support.screen import on_screen
from tests.support.world import WAIT, wait_for

pytestmark = pytest.mark.mount


@pytest.fixture
def mount() -> Iterator[Mounted]:
    with mounted() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of the programs: they keep what they know there."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def names(mount: Mounted, folder: str) -> list[str]:
    return sorted(path.name for path in (mount.path / folder).iterdir())


def arrive(mount: Mounted, *texts: str) -> list[str]:
    """They are in new/: all that is there."""
    expected = len(names(mount, "mail/new")) + len(texts)
    for text in texts:
        mount.arrive("bob", text)
    wait_for(lambda: len(names(mount, "mail/new")) == expected or None, "the arrivals")
    return names(mount, "mail/new")


def talk(mount: Mounted) -> str:
    (name,) = (each for each in names(mount, "mail") if each.startswith(".conversations."))
    return f"mail/{name}"


def program(home: Path, *command: str | Path, **more: str) -> str:
    """What a program prints that must succeed; with a terminal that is none."""
    words = shutil.which(str(command[0]))
    assert words is not None, f"{command[0]} is missing; ./run test installs it"
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "xterm",
    }
    done = subprocess.run(
        list(map(str, command)),
        env=environment | more,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_sizes_names_and_bytes_agree(mount: Mounted) -> None:
    for name in arrive(mount, "one", "Grüße", "three"):
        path = mount.path / "mail/new" / name
        same = mount.path / talk(mount) / "new" / name
        data = path.read_bytes()
        assert path.stat().st_size == same.stat().st_size == len(data)
        assert path.stat().st_ino == same.stat().st_ino
        assert same.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o400
        with path.open("rb") as file:
            assert os.fstat(file.fileno()).st_size == len(data)
            assert os.pread(file.fileno(), 10, len(data) - 4) == data[-4:]
        found = email.message_from_bytes(data, policy=default)
        assert found["From"] == "bob <bob@cbfs.invalid>"
    sizes = mount.run("ls -l mail/new | tail -n +2 | awk '{print $5}'").split()
    assert sum(map(int, sizes)) == int(mount.run("cat mail/new/* | wc -c"))
    assert names(mount, "mail/cur") == []


def test_watchers_see_mail_come_be_read_and_go(mount: Mounted) -> None:
    (first,) = arrive(mount, "one")
    new, cur = Watch(mount.path / "mail/new"), Watch(mount.path / "mail/cur")
    goes = Watch(mount.path / "mail/new", Watch.GOES)
    own = Watch(mount.path / talk(mount) / "cur")
    names(mount, "mail/new"), names(mount, f"{talk(mount)}/new")
    mount.arrive("bob", "two")
    new.wait(".cbfs")
    mount.run("cat conversations/*/*-bob* > /dev/null")
    cur.wait(":2,S", 2)
    own.wait(":2,S", 2)
    goes.wait(first)
    assert names(mount, "mail/new") == []
    assert len(names(mount, "mail/cur")) == len(names(mount, f"{talk(mount)}/cur")) == 2
    away = Watch(mount.path / talk(mount) / "cur", Watch.GOES)
    mount.run(f"rm mail/cur/{first}:2,S")
    away.wait(first)
    assert len(mount.messages("bob")) == 1
    mount.run("rm conversations/*/*-bob*")
    away.wait(":2,S", 2)
    assert names(mount, "mail/cur") == names(mount, f"{talk(mount)}/cur") == []
    for watch in (new, cur, goes, own, away):
        watch.close()
    assert "watchers" not in mount.log()


def test_watchers_see_mail_go_that_the_kernel_did_not_know(mount: Mounted) -> None:
    (first,) = arrive(mount, "one")
    own = f"{talk(mount)}/new"
    mount.unmount()
    mount.mount()
    watches = [Watch(mount.path / box, Watch.GOES) for box in ("mail/new", own)]
    mount.run("rm conversations/*/*-bob*")
    for watch in watches:
        watch.wait(first)
        watch.close()
    assert "watchers" not in mount.log()


def test_flags_by_rename_are_seen_everywhere_and_kept(mount: Mounted) -> None:
    first, second = arrive(mount, "one", "two")
    own = Watch(mount.path / talk(mount) / "cur")
    names(mount, f"{talk(mount)}/new")
    mount.run(f"mv mail/new/{first} mail/cur/{first}:2,FS")
    own.wait(f"{first}:2,FS")
    own.close()
    assert names(mount, f"{talk(mount)}/new") == names(mount, "mail/new") == [second]
    wait_for(lambda: len(names(mount, "unread")) == 1 or None, "the link to go")
    mount.run(f"! cat mail/cur/{first}:2,S 2> /dev/null; ! cat mail/new/{first} 2> /dev/null")
    mount.unmount()
    mount.mount()
    assert names(mount, "mail/cur") == names(mount, f"{talk(mount)}/cur") == [f"{first}:2,FS"]
    mount.run(f"mv mail/cur/{first}:2,FS mail/cur/{first}:2,FST")
    mount.run(f"! cat mail/cur/{first}:2,FST 2> /dev/null")
    wait_for(lambda: not names(mount, "mail/cur") or None, "the message to go")
    gone = mount.path / "mail/cur" / f"{first}:2,FST"
    wait_for(lambda: not gone.exists() or None, "the kernel to forget its name")
    assert mount.messages("bob") == ["two\n"]


def test_nothing_can_be_put_into_mail(mount: Mounted) -> None:
    arrive(mount, "one")
    for place in ("mail/new", "mail/cur", "mail/tmp", talk(mount)):
        with pytest.raises(PermissionError):
            (mount.path / place / "1.x.host").write_text("x")
    with pytest.raises(PermissionError):
        mailbox.Maildir(mount.path / "mail").add("Subject: x\n\nx\n")


def test_programs_keep_maildirs_of_their_own_in_it(mount: Mounted) -> None:
    """Hidden ones, whose names are none of conversations."""
    (apple,) = arrive(mount, "apple")
    drafts = mailbox.Maildir(mount.path / "mail", create=False).add_folder("Drafts")
    drafts.add("Subject: draft\n\nhello\n")
    for name in ("Drafts", f"{talk(mount)[5:]}x", ".conversations.x"):
        with pytest.raises(PermissionError):
            (mount.path / "mail" / name).mkdir()
        with pytest.raises(PermissionError):
            (mount.path / "mail" / ".Drafts").rename(mount.path / "mail" / name)
    mount.run("mv mail/.Drafts mail/.Later")
    mount.unmount()
    mount.mount()
    (draft,) = names(mount, "mail/.Later/new")
    assert "hello" in mount.run(f"cat mail/.Later/new/{draft}")
    with pytest.raises(OSError, match="cross-device"):
        (mount.path / "mail/new" / apple).rename(mount.path / "mail/.Later/cur/1.x.host:2,")
    assert mount.messages("bob") == ["apple\n"]
    mount.run("rm -r mail/.Later")
    assert not (mount.path / "mail/.Later").exists()


def test_pythons_mailbox_reads_sets_flags_and_removes(mount: Mounted) -> None:
    arrive(mount, "one", "two")
    box = mailbox.Maildir(mount.path / "mail", create=False)
    assert len(box) == 2
    assert sorted(each["Subject"] for each in box) == ["one", "two"]
    assert [each.get_subdir() for each in box] == ["new", "new"]
    (folder,) = box.list_folders()
    assert folder.startswith("conversations.")
    assert len(box.get_folder(folder)) == 2
    (key,) = (key for key, each in box.items() if each["Subject"] == "one")
    box.remove(key)
    assert mount.messages("bob") == ["two\n"]
    # which was read by that: a look while it goes from new/ to cur/ may find it in neither
    wait_for(lambda: len(box) == 1 or None, "the other one")


NEOMUTT = """
set mbox_type = Maildir
set folder = "{mail}"
set spoolfile = "{mail}"
set header_cache =
set sleep_time = 0
set quit = yes
set delete = yes
set read_inc = 0
set wait_key = no
set mark_old = no
set maildir_trash = no
set ssl_force_tls = no
set pager_stop = yes
"""


@pytest.mark.parametrize("mutt", ["mutt", "neomutt"])
def test_mutt_reads_flags_and_deletes(mount: Mounted, home: Path, mutt: str) -> None:
    arrive(mount, "apple", "pear", "plum")
    settings = home / "muttrc"
    settings.write_text(NEOMUTT.format(mail=mount.path / "mail"))
    keys = (
        "<search>~sapple<enter><display-message><exit><search>~spear<enter><flag-message>"
        "<search>~splum<enter><delete-message><quit>"
    )
    program(
        home,
        "script",
        "-qec",
        f"{mutt} -n -F {settings} -f '{mount.path}/mail' -e 'push {keys}'",
        "/dev/null",
    )
    flags = {}
    for place in ("new", "cur"):
        for path in (mount.path / "mail" / place).iterdir():
            found = email.message_from_bytes(path.read_bytes(), policy=default)
            flags[found["Subject"]] = path.name.partition(":2,")[2]
    assert flags == {"apple": "S", "pear": "F"}
    assert sorted(mount.messages("bob")) == ["apple\n", "pear\n"]


@pytest.mark.parametrize("mutt", ["mutt", "neomutt"])
def test_mutt_postpones_into_the_account(mount: Mounted, home: Path, mutt: str) -> None:
    settings = home / "muttrc"
    example = (ROOT / "examples" / "mail" / "muttrc").read_text()
    settings.write_text(example.replace("~/chat", str(mount.path)))
    keys = "<mail>carol<enter>draft<enter><exit>y<quit>"
    command = f"{mutt} -n -F {settings} -e 'set confirmcreate=no' -e 'push {keys}'"
    editor = home.parent / "editor"  # of a letter that nobody has written, mutt keeps nothing
    editor.write_text('#!/bin/sh\necho hello >>"$1"\n')
    editor.chmod(0o755)
    program(home, "script", "-qec", command, "/dev/null", VISUAL=str(editor))
    (draft,) = mailbox.Maildir(mount.path / "mail" / ".Drafts", create=False)
    assert (draft["To"], draft["Subject"]) == ("carol", "draft")
    assert sorted(path.name for path in home.iterdir()) == ["muttrc"]


def aerc_at(mount: Mounted, home: Path) -> dict[str, str]:
    """The environment of an aerc with the settings of the example."""
    settings = home / ".config" / "aerc"
    settings.mkdir(parents=True)
    accounts = settings / "accounts.conf"
    example = ROOT / "examples" / "mail" / "accounts.conf"
    accounts.write_text(example.read_text().replace("~/chat", str(mount.path)))
    accounts.chmod(0o600)
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "EDITOR": "true",
    }


def test_aerc_shows_what_comes_reads_and_deletes(mount: Mounted, home: Path) -> None:
    arrive(mount, "apple")
    with on_screen(["aerc"], aerc_at(mount, home)) as screen:
        screen.wait("apple")
        wait_for(lambda: names(mount, "mail/new") == [] or None, "aerc to take it out of new/")
        mount.arrive("bob", "pear")
        screen.wait("pear")
        screen.type(":select 0\r:view\r")
        wait_for(lambda: flags_in(mount) == ["", "S"] or None, "a message to be read")
        screen.type(":delete\r")
        shown = mount.path / "conversations"  # read by no one, as one of them goes meanwhile
        wait_for(lambda: len(list(shown.glob("*/*Z-bob*"))) == 1 or None, "it to be deleted")


def test_aerc_postpones_and_recalls_copies_and_cannot_archive(mount: Mounted, home: Path) -> None:
    arrive(mount, "apple")
    environment = aerc_at(mount, home)
    drafts = mount.path / "mail" / ".Drafts" / "cur"
    with on_screen(["aerc"], environment) as screen:
        screen.wait("apple")
        screen.type(":archive flat\r")
        screen.wait("could not move message")
        screen.type(":cp -p Kept\r")
        kept = mount.path / "mail" / ".Kept" / "cur"
        wait_for(lambda: list(kept.glob("*")) or None, "the copy")
        screen.type(":compose -H To:carol@cbfs.invalid -H Subject:draft\r")
        screen.wait("Send this email?")
        screen.type(":postpone\r")
        (draft,) = wait_for(lambda: list(drafts.glob("*")) or None, "the draft")
        assert b"Subject: draft" in draft.read_bytes()
    assert len(mount.messages("bob")) == 1
    mount.unmount()
    mount.mount()
    with on_screen(["aerc"], environment) as screen:
        screen.wait("Drafts")
        screen.type(":cf Drafts\r")
        screen.wait("draft")
        screen.type(":recall\r")
        screen.wait("Send this email?")


def flags_in(mount: Mounted) -> list[str]:
    return sorted(name.partition(":2,")[2] for name in names(mount, "mail/cur"))


def test_a_mail_that_is_deleted_leaves_the_kernel(mount: Mounted) -> None:
    (first,) = arrive(mount, "one")
    with (mount.path / "mail/new" / first).open("rb", buffering=0) as file:
        assert b"one" in file.read()
        mount.run("rm conversations/*/*-bob*")

        def is_gone() -> bool | None:
            try:
                os.pread(file.fileno(), 100, 0)
            except OSError as error:
                return error.errno == errno.ESTALE
            return None

        wait_for(is_gone, "the kernel to forget it")


def test_a_mail_is_opened_once_and_asked_for_no_more(mount: Mounted) -> None:
    (first,) = arrive(mount, "one")
    path = mount.path / "mail/new" / first
    data = path.read_bytes()
    with path.open("rb", buffering=0) as file:
        mount.send(signal.SIGSTOP)
        try:
            assert os.pread(file.fileno(), 1 << 16, 0) == data
            assert os.fstat(file.fileno()).st_size == len(data)
        finally:
            mount.send(signal.SIGCONT)


def test_notmuch_finds_mail_and_what_has_come_since(mount: Mounted, home: Path) -> None:
    arrive(mount, "apple", "pear")
    config = home / "notmuch"
    config.write_text(
        f"[database]\npath={home / 'index'}\nmail_root={mount.path / 'mail'}\n"
        "[user]\nname=alice\nprimary_email=alice@cbfs.invalid\n"
        "[new]\ntags=unread;inbox;\n[maildir]\nsynchronize_flags=true\n"
    )
    (home / "index").mkdir()
    program(home, "notmuch", "--config", config, "new")
    assert program(home, "notmuch", "--config", config, "count", "from:bob").strip() == "2"
    found = program(home, "notmuch", "--config", config, "search", "--output=files", "apple")
    assert len(found.split("\n")) >= 2
    arrive(mount, "plum")
    program(home, "notmuch", "--config", config, "new")
    assert program(home, "notmuch", "--config", config, "count", "plum").strip() == "1"
    program(home, "notmuch", "--config", config, "tag", "-unread", "--", "plum")
    wait_for(lambda: len(names(mount, "mail/cur")) == 1 or None, "plum to be read")


def test_notmuch_keeps_its_index_in_the_account(mount: Mounted, home: Path) -> None:
    arrive(mount, "apple", "pear")
    config = home / "notmuch"
    config.write_text(
        f"[database]\npath={mount.path / 'mail'}\n[new]\nignore=/^[.]conversations[.]/\n"
        "[user]\nname=alice\nprimary_email=alice@cbfs.invalid\n"
    )
    program(home, "notmuch", "--config", config, "new")
    assert program(home, "notmuch", "--config", config, "count", "apple").strip() == "1"
    mount.unmount()
    mount.mount()
    arrive(mount, "plum")
    program(home, "notmuch", "--config", config, "new")
    assert program(home, "notmuch", "--config", config, "count", "*").strip() == "3"
    found = program(home, "notmuch", "--config", config, "search", "--output=files", "plum")
    assert Path(found.strip()).parent == mount.path / "mail" / "new"
    assert sorted(path.name for path in home.iterdir()) == ["notmuch"]


def test_notmuch_takes_a_conversation_with_a_long_name(mount: Mounted, home: Path) -> None:
    """Two of them, whose names differ behind what is cut."""
    long = f"bob {'long ä' * 34}"
    for end in "xy":
        mount.run(f"mkdir 'outbox/{long}{end}'; echo hello > 'outbox/{long}{end}/note'")
    mount.wait_messages("hello\n", "hello\n")
    assert len([each for each in names(mount, "mail") if each.startswith(".conv")]) == 2
    config = home / "notmuch"
    config.write_text(
        f"[database]\npath={home / 'index'}\nmail_root={mount.path / 'mail'}\n"
        "[user]\nname=alice\nprimary_email=alice@cbfs.invalid\n"
    )
    (home / "index").mkdir()
    program(home, "notmuch", "--config", config, "new")
    assert program(home, "notmuch", "--config", config, "count", "hello").strip() == "2"


def test_mbsync_copies_both_ways(mount: Mounted, home: Path) -> None:
    arrive(mount, "apple", "pear")
    other = home / "copy"
    settings = home / "mbsyncrc"
    settings.write_text(
        f"MaildirStore here\nInbox {mount.path / 'mail'}\n\n"
        f"MaildirStore there\nInbox {other}\n\n"
        "Channel mail\nFar :here:\nNear :there:\nCreate Near\nSync All\nExpunge Both\n"
        f"SyncState {home}/state-\n"
    )
    for folder in ("new", "cur", "tmp"):
        (other / folder).mkdir(parents=True)
    program(home, "mbsync", "-c", settings, "mail")
    copies = sorted([*(other / "new").iterdir(), *(other / "cur").iterdir()])
    assert len(copies) == 2
    originals = [path for box in ("new", "cur") for path in (mount.path / "mail" / box).iterdir()]
    assert sorted(email.message_from_bytes(p.read_bytes())["Subject"] for p in copies) == [
        "apple", "pear",
    ]  # fmt: skip
    assert len(originals) == 2
    (apple,) = (p for p in copies if b"Subject: apple" in p.read_bytes())
    apple.rename(other / "cur" / f"{apple.name.partition(':')[0]}:2,RS")
    program(home, "mbsync", "-c", settings, "mail")
    (read,) = names(mount, "mail/cur")
    assert read.endswith(":2,RS")
    (apple,) = (other / "cur").glob("*:2,RS")
    apple.rename(apple.with_name(apple.name + "T"))
    program(home, "mbsync", "-c", settings, "mail")
    assert mount.messages("bob") == ["pear\n"]
    arrive(mount, "plum")
    program(home, "mbsync", "-c", settings, "mail")
    assert len([*(other / "new").iterdir(), *(other / "cur").iterdir()]) == 2
