"""``cbfs sendmail`` beside real mounts, and the programs that call it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest

from cbfs.commands.sendmail.options import Exit
from cbfs.messages.mail_ids import MailId
from tests.support.world import ENVIRONMENT, SCRIPTS, WAIT, User, World, program, wait_for, world

pytestmark = pytest.mark.mount

EXAMPLES = Path(__file__).parents[2] / "examples" / "mail"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, User, User, User]]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made, made.user("alice"), made.user("bob"), made.user("carol")


def called(
    user: User, data: str | bytes, *words: str, name: str = ""
) -> subprocess.CompletedProcess[str]:
    """``cbfs sendmail``, or what has this name and leads to it."""
    command = [name] if name else program("cbfs", "sendmail", "--account", user.account)
    done = subprocess.run(
        [*command, *words],
        input=data.encode() if isinstance(data, str) else data,
        capture_output=True,
        timeout=WAIT,
        check=False,
        env=environment(user),
    )
    return subprocess.CompletedProcess(words, done.returncode, "", done.stderr.decode())


def environment(user: User) -> dict[str, str]:
    """That of somebody whose account is where it is looked for by itself, and whose sendmail is
    ours."""
    place = user.account.parent / f"{user.name}-data"
    place.mkdir(exist_ok=True)
    for link, target in ((place / "cbfs", user.account), (place / "sendmail", SCRIPTS / "cbfs")):
        if not link.exists():
            link.symlink_to(target)
    (place / "cbfs-sendmail").write_text(f'#!/bin/sh\nexec "{SCRIPTS}/cbfs" sendmail "$@"\n')
    (place / "cbfs-sendmail").chmod(0o755)
    path = f"{place}:{SCRIPTS}:{os.environ['PATH']}"
    return {**ENVIRONMENT, "XDG_DATA_HOME": str(place), "HOME": str(place), "PATH": path}


def sent(user: User, data: str | bytes, *words: str) -> str:
    done = called(user, data, *words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def texts_of(user: User) -> list[Path]:
    """The messages from alice that are no folders."""
    return [path for path in user.messages("alice") if path.is_file()]


def outbox(user: User) -> list[str]:
    return sorted(path.name for path in (user.mountpoint / "outbox").iterdir())


def outbox_is(user: User, names: list[str]) -> bool:
    return outbox(user) == names


def staged(user: User) -> list[Path]:
    return list((user.mountpoint / "tmp").iterdir())


def metadata(path: Path) -> str:
    return (path.parent / "metadata.toml").read_text()


def test_a_mail_becomes_a_message(people: tuple[World, User, User, User]) -> None:
    _, alice, bob, carol = people
    assert sent(alice, "To: bob@cbfs.invalid, carol\nSubject: Käse\n\nhello both\n", "-t") == ""
    first = bob.wait_message("alice", "hello both\n")
    carol.wait_message("alice", "hello both\n")
    assert 'subject = "Käse"' in metadata(first)
    sent(alice, "To: bob, carol\nSubject: Käse\n\nagain\n", "-ti")
    assert bob.wait_message("alice", "again\n").parent == first.parent
    assert staged(alice) == []


def test_who_is_blind_is_alone(people: tuple[World, User, User, User]) -> None:
    _, alice, bob, carol = people
    sent(alice, "To: bob\nBcc: carol\nSubject: secret\n\nblind copy\n", "-t")
    for user in (bob, carol):
        text = metadata(user.wait_message("alice", "blind copy\n"))
        assert f'participants = [\n    "alice",\n    "{user.name}",\n]' in text


def test_a_name_that_nobody_has_is_refused(people: tuple[World, User, User, User]) -> None:
    _, alice, bob, _carol = people
    for line, words in (
        ("To: bob, zenobia", "-t"),
        ("X: y", "zenobia"),
        ("To: bob, a@b.org", "-t"),
    ):
        before = outbox(alice)
        done = called(alice, f"{line}\nSubject: nobody\n\nto nobody\n", words)
        assert done.returncode == Exit.NOUSER, done.stderr
        assert "hint:" in done.stderr
        assert staged(alice) == []
        wait_for(
            partial(outbox_is, alice, before),
            "the outbox to be as it was",
        )
    sent(alice, "Subject: x\n\nafter that\n", "bob")
    bob.wait_message("alice", "after that\n")
    assert not [path for path in texts_of(bob) if "to nobody" in path.read_text()]


@pytest.mark.parametrize(
    ("data", "words", "code"),
    [
        ("", ["bob"], Exit.DATAERR),
        ("hi\n", [], Exit.USAGE),
        ("hi\n", ["-bs"], Exit.USAGE),
        ("hi\n", ["root"], Exit.NOUSER),
        ("hi\n", ["bob", "b ob"], Exit.NOUSER),
        ("hi\n", ["--account", "/nowhere", "bob"], Exit.CONFIG),
    ],
)
def test_what_is_refused_leaves_nothing(
    people: tuple[World, User, User, User], data: str, words: list[str], code: Exit
) -> None:
    _, alice, _bob, _carol = people
    done = called(alice, data, *words)
    assert done.returncode == code
    assert done.stderr.startswith("cbfs: error: ")
    assert staged(alice) == []


def test_attachments_arrive_as_a_folder(people: tuple[World, User, User, User]) -> None:
    _, alice, bob, _carol = people
    mail = EmailMessage()
    mail["To"], mail["Subject"] = "bob", "two files"
    mail.set_content("see\n")
    for name, content in (("a.bin", bytes(70_000)), ("a.bin", b"second"), ("../x.error", b"")):
        mail.add_attachment(content, maintype="application", subtype="x", filename=name)
    sent(alice, mail.as_bytes(), "-t")
    folder = wait_for(
        lambda: next(bob.mountpoint.glob("conversations/*/*-alice-two files"), None), "the folder"
    )
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {
        "message": b"see\n", "a.bin": bytes(70_000), "a (2).bin": b"second", "x.error_": b""
    }  # fmt: skip


def test_an_answer_finds_its_conversation(people: tuple[World, User, User, User]) -> None:
    _, alice, bob, carol = people
    sent(bob, "To: alice, carol\nSubject: plans\n\nwhat now?\n", "-t")
    question = alice.wait_message("bob", "what now?\n")
    ids = [bytes.fromhex(os.getxattr(question, f"user.cbfs.{name}").decode())
           for name in ("id", "conversation")]  # fmt: skip
    answer = f"Subject: Re: plans\nIn-Reply-To: {MailId(*ids).encode()}\n"
    sent(alice, f"To: bob, carol\n{answer}\nto both\n", "-t")
    assert alice.wait_message("alice", "to both\n").parent == question.parent
    bob.wait_message("alice", "to both\n")
    carol.wait_message("alice", "to both\n")
    sent(alice, f"To: bob\n{answer}\nto bob alone\n", "-t")
    there = alice.wait_message("alice", "to bob alone\n")
    assert there.parent != question.parent
    bob.wait_message("alice", "to bob alone\n")
    assert "carol" not in metadata(there)


def test_oneself_and_a_petname_are_people(people: tuple[World, User, User, User]) -> None:
    _, alice, bob, _carol = people
    sent(alice, "Subject: note\n\nto myself\n", "alice")
    alice.wait_message("alice", "to myself\n")
    sent(alice, "Subject: x\n\nso that bob is a contact\n", "bob")
    bob.wait_message("alice", "so that bob is a contact\n")
    (alice.mountpoint / "contacts" / "bob").rename(alice.mountpoint / "contacts" / "bobby")
    try:
        for name in ("bobby", "bob@cbfs.invalid"):
            sent(alice, f"To: {name}\nSubject: pet\n\nto {name}\n", "-t")
        folders = {bob.wait_message("alice", f"to {name}\n").parent
                   for name in ("bobby", "bob@cbfs.invalid")}  # fmt: skip
        assert len(folders) == 1
        # an address is that of the one who has the name
        done = called(alice, "Subject: pet\n\nx\n", "bobby@cbfs.invalid")
        assert done.returncode == Exit.NOUSER
        assert "to write to whom you call bobby, leave out @cbfs.invalid" in done.stderr
    finally:
        (alice.mountpoint / "contacts" / "bobby").rename(alice.mountpoint / "contacts" / "bob")


def test_an_address_is_not_the_contact_who_is_called_so(
    people: tuple[World, User, User, User],
) -> None:
    """Also when the one who has the name is no contact."""
    here, alice, _bob, carol = people
    here.account("erin")
    sent(alice, "Subject: x\n\nso that carol is a contact\n", "carol")
    carol.wait_message("alice", "so that carol is a contact\n")
    contacts = alice.mountpoint / "contacts"
    (contacts / "carol").rename(contacts / "erin")
    try:
        sent(alice, "Subject: x\n\nto erin\n", "erin@cbfs.invalid")
        assert '"@erin"' in metadata(alice.wait_message("alice", "to erin\n"))
        sent(alice, "Subject: x\n\nto carol\n", "erin")
        carol.wait_message("alice", "to carol\n")
    finally:
        (contacts / "erin").rename(contacts / "carol")
    assert not [path for path in texts_of(carol) if path.read_text() == "to erin\n"]


def test_what_is_sent_while_nothing_is_mounted_waits(
    people: tuple[World, User, User, User],
) -> None:
    _, alice, bob, carol = people
    alice.unmount()
    try:
        secret = "nobody may read this"
        for number in range(3):
            told = sent(alice, f"To: bob, carol\nSubject: wait\n\n{secret} {number}\n", "-t")
            assert "the message waits until it is" in told
        assert called(alice, "hi\n", "b ob").returncode == Exit.NOUSER
        spool = alice.account / "spool"
        assert not any(secret.encode() in path.read_bytes() for path in spool.iterdir())
        done = subprocess.run(
            program("cbfs", "status", alice.account), capture_output=True, text=True, check=False
        )
        assert "messages of cbfs sendmail that wait for it: 3" in done.stderr
        done = subprocess.run(
            program("cbfs", "status", alice.mountpoint),
            capture_output=True,
            text=True,
            check=False,
            env=environment(alice),
        )
        assert "nothing of cbfs is mounted" in done.stderr
        assert "messages of cbfs sendmail that wait for it: 3" in done.stderr
    finally:
        alice.mount()
    for number in range(3):
        bob.wait_message("alice", f"{secret} {number}\n")
        carol.wait_message("alice", f"{secret} {number}\n")
    assert list(spool.glob("*.mail")) == []
    alice.unmount()
    alice.mount()
    sent(alice, "Subject: x\n\nafter the next mount\n", "bob")
    bob.wait_message("alice", "after the next mount\n")
    texts = [path.read_text() for path in texts_of(bob)]
    assert [text.count(secret) for text in texts].count(1) == 3


def test_a_mount_that_does_not_answer_is_not_waited_for(
    people: tuple[World, User, User, User],
) -> None:
    _, alice, bob, _carol = people
    daemons = alice.pids()
    for daemon in daemons:
        os.kill(daemon, signal.SIGSTOP)
    try:
        told = sent(alice, "Subject: stopped\n\nwhile it is stopped\n", "bob")
    finally:
        for daemon in daemons:
            os.kill(daemon, signal.SIGCONT)
    assert "does not answer: the message waits" in told
    assert len(list((alice.account / "spool").glob("*.mail"))) == 1
    alice.unmount()
    alice.mount()
    bob.wait_message("alice", "while it is stopped\n")


def test_where_nothing_was_ever_mounted_nothing_can_wait(
    people: tuple[World, User, User, User],
) -> None:
    here, *_ = people
    dave = here.account("dave")
    done = called(dave, "hi\n", "bob")
    assert done.returncode == Exit.TEMPFAIL
    assert "mount it once" in done.stderr


def test_programs_find_it_as_sendmail(people: tuple[World, User, User, User]) -> None:
    """What cron runs, and how."""
    _, alice, bob, _carol = people
    mail = (
        "From: root (Cron Daemon)\nTo: bob\nSubject: Cron <alice@host> df /\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\n"
        "X-Cron-Env: <SHELL=/bin/sh>\n\nthe dïsk is full\n.\n"
    )
    words = ("-i", "-FCronDaemon", "-B8BITMIME", "-oem", "bob")
    done = called(alice, mail, *words, name=str(alice.account.parent / "alice-data" / "sendmail"))
    assert done.returncode == 0, done.stderr
    path = bob.wait_message("alice", "the dïsk is full\n.\n")
    assert 'subject = "Cron <alice@host> df /"' in metadata(path)


def shell(user: User, script: str, place: Path, **more: str) -> None:
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=place,
        env={**environment(user), "GIT_CONFIG_NOSYSTEM": "1", **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_git_sends_a_series_that_git_applies(
    people: tuple[World, User, User, User], tmp_path: Path
) -> None:
    _, alice, bob, _carol = people
    (tmp_path / "gitconfig").write_bytes((EXAMPLES / "gitconfig").read_bytes())
    begin = (
        "git init -q {0}; cd {0}; git config user.name Älice; git config user.email a@example.org;"
        " echo one >f; git add f; git commit -qm one"
    )
    shell(alice, begin.format("here"), tmp_path, GIT_COMMITTER_DATE="1000000000 +0000",
          GIT_AUTHOR_DATE="1000000000 +0000")  # fmt: skip
    shell(alice, "git clone -q here there", tmp_path)
    script = (
        'cd here; for n in two thrée four; do echo $n >>f; git commit -qam "add/$n"; done;'
        " git format-patch -q --cover-letter -o ../sent -3;"
        r" sed -i 's/[*]\{3\} [A-Z]* HERE [*]\{3\}/three numbers/' ../sent/0000*;"
        " git send-email --quiet --to=bob@cbfs.invalid ../sent"
    )
    shell(alice, script, tmp_path, GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))

    def series() -> Path | None:
        found = [path for path in texts_of(bob) if "\nthree numbers\n" in path.read_text()]
        there = [path for path in texts_of(bob) if found and path.parent == found[0].parent]
        return found[0].parent if len(there) == 4 else None

    folder = wait_for(series, "the series in one conversation")
    assert 'subject = "[PATCH 0/3] three numbers"' in (folder / "metadata.toml").read_text()
    box = bob.mountpoint / "mail" / f".conversations.{folder.name}"
    script = (
        "cd there; git config user.name b; git config user.email b@c;"
        f" git am -q --empty=drop '{box}'"
    )
    shell(alice, script, tmp_path)
    assert (tmp_path / "there" / "f").read_text() == "one\ntwo\nthrée\nfour\n"
    shell(alice, "cd there; git log --format='%an: %s' -3 >../log", tmp_path)
    assert (tmp_path / "log").read_text() == ("Älice: add/four\nÄlice: add/thrée\nÄlice: add/two\n")


def test_mutt_sends_with_an_attachment(
    people: tuple[World, User, User, User], tmp_path: Path
) -> None:
    _, alice, bob, _carol = people
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8 a photo")
    script = (
        f"echo 'from mutt' | mutt -n -F {EXAMPLES / 'muttrc'} -s 'seen ä' -a photo.jpg --"
        " bob@cbfs.invalid"
    )
    shell(alice, script, tmp_path, LC_ALL="C.UTF-8")
    folder = wait_for(
        lambda: next(bob.mountpoint.glob("conversations/*/*-alice-seen ä"), None), "the folder"
    )
    assert (folder / "photo.jpg").read_bytes() == b"\xff\xd8 a photo"
    assert (folder / "message").read_text() == "from mutt\n"


def test_mutt_sends_to_what_you_call_somebody(
    people: tuple[World, User, User, User], tmp_path: Path
) -> None:
    """It would make an address of a name by itself, which is the one's who has the name."""
    _, alice, bob, _carol = people
    sent(alice, "Subject: x\n\nso that mutt knows bob\n", "bob")
    bob.wait_message("alice", "so that mutt knows bob\n")
    contacts = alice.mountpoint / "contacts"
    (contacts / "bob").rename(contacts / "bobby")
    try:
        script = f"echo 'to bobby' | mutt -n -F {EXAMPLES / 'muttrc'} -s pet -- bobby"
        shell(alice, script, tmp_path, LC_ALL="C.UTF-8")
        bob.wait_message("alice", "to bobby\n")
    finally:
        (contacts / "bobby").rename(contacts / "bob")


def test_mail_sends_a_line(people: tuple[World, User, User, User], tmp_path: Path) -> None:
    _, alice, bob, _carol = people
    rc = (EXAMPLES / "mailrc").read_text()
    assert "/usr/sbin/sendmail" in rc
    place = alice.account.parent / "alice-data" / "sendmail"
    (tmp_path / "rc").write_text(rc.replace("/usr/sbin/sendmail", str(place)))
    shell(alice, "echo 'from mail' | s-nail -s 'a line' bob", tmp_path,
          MAILRC=str(tmp_path / "rc"))  # fmt: skip
    assert 'subject = "a line"' in metadata(bob.wait_message("alice", "from mail\n"))


def test_a_unit_that_fails_is_told_of(
    people: tuple[World, User, User, User], tmp_path: Path
) -> None:
    """What systemd would run, which does not run here."""
    _, alice, bob, _carol = people
    unit = (EXAMPLES / "failed@.service").read_text()
    (line,) = [each for each in unit.splitlines() if each.startswith("ExecStart=/bin/sh -c '")]
    script = line.removeprefix("ExecStart=/bin/sh -c '").removesuffix("'")
    script = script.replace("%i", "backup.service").replace(
        "systemctl --user status --full", "echo"
    )
    shell(alice, script, tmp_path)
    path = bob.wait_message("alice", "backup.service\n")
    assert 'subject = "backup.service has failed"' in metadata(path)


def test_smartd_tells_of_a_disk(people: tuple[World, User, User, User], tmp_path: Path) -> None:
    """What smartd runs, with -m bob -M exec, where it finds a disk; here is none that it knows."""
    _, alice, bob, _carol = people
    warning = Path("/usr/share/smartmontools/smartd_warning.sh")
    assert warning.exists(), "smartmontools is missing; ./run test installs it"
    script = tmp_path / "smartd-mail"  # smartd looks in no PATH of a user's
    example = (EXAMPLES / "smartd").read_text()
    script.write_text(example.replace("| cbfs ", f"| '{SCRIPTS}/cbfs' "))
    script.chmod(0o755)
    shell(
        alice,
        str(warning),
        tmp_path,
        SMARTD_MAILER=str(script),
        SMARTD_ADDRESS="bob",
        SMARTD_MESSAGE="the disk is old",
        SMARTD_FAILTYPE="EmailTest",
        SMARTD_DEVICE="/dev/sda",
        SMARTD_DEVICESTRING="/dev/sda",
        SMARTD_DEVICETYPE="auto",
        SMARTD_DEVICEINFO="a disk",
        SMARTD_TFIRST="now",
        SMARTD_TFIRSTEPOCH="1795445162",
        SMARTD_PREVCNT="0",
        SMARTD_NEXTDAYS="",
    )
    path = wait_for(
        lambda: next((p for p in texts_of(bob) if "the disk is old" in p.read_text()), None),
        "what smartd says",
    )
    assert "SMART error (EmailTest)" in metadata(path)


def test_a_mail_says_what_somebody_is_called_now(people: tuple[World, User, User, User]) -> None:
    """Whatever the kernel has of it."""
    _, alice, bob, _carol = people
    sent(alice, "Subject: called\n\nwho is it\n", "bob")
    bob.wait_message("alice", "who is it\n")
    contacts = bob.mountpoint / "contacts"
    (path,) = (
        path
        for box in ("new", "cur")
        for path in (bob.mountpoint / "mail" / box).iterdir()
        if b"who is it" in path.read_bytes()
    )

    def says() -> bool | None:
        return b"the-builder" in path.read_bytes() or None

    assert not says()
    (contacts / "alice").rename(contacts / "alice-the-builder")
    try:
        wait_for(says, "her name")
        wait_for(lambda: path.stat().st_size == len(path.read_bytes()) or None, "the size")
    finally:
        (contacts / "alice-the-builder").rename(contacts / "alice")
    wait_for(lambda: not says() or None, "her name of before")
    wait_for(lambda: path.stat().st_size == len(path.read_bytes()) or None, "the size of before")
