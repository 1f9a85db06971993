"""Rows of mail/: what mail programs do with very many messages, beside a real Maildir of the same
messages.

The accounts are filled once and kept between runs, with the real Maildirs, in MAIL_CACHE (by
default ``~/.cache/cbfs-bench``); MAIL_MESSAGES says of how many messages they are (by default
``10000 100000``). A row is the first look after mounting, and one of the same again. The peer of
the rows of ``minimal`` is the least that a file system in pyfuse3 can do with the same files: what
opening a file costs there, no file system of ours is rid of.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cbfs.messages.search_index import segments
from cbfs.storage.encoding import u32
from cbfs.storage.root_key import MAGIC
from cbfs.storage.store import Table, Writer
from tests.bench.at_size import make_account
from tests.bench.mounts import taken_by
from tests.bench.server import on_disk
from tests.bench.table import Row, duration, faster
from tests.support.mounted import Mounted
from tests.support.screen import on_screen
from tests.support.stores import open_store

SIZES = "10000 100000"
CONVERSATIONS = 100

PEER = "a real Maildir"
AIM = 0.5
"""At most twice as long."""

OPENED_MAX = 600.0
"""Seconds until a mail program must have shown something."""

MUTT = """
set mbox_type = Maildir
set folder = "{mail}"
set spoolfile = "{mail}"
set header_cache = "{cache}"
set sleep_time = 0
set mark_old = no
set read_inc = 0
"""
NOTMUCH = """
[database]
path={index}
mail_root={mail}
[user]
name=alice
primary_email=alice@cbfs.invalid
[new]
ignore=/^[.]conversations[.]/
[maildir]
synchronize_flags=false
"""
MBSYNC = """
MaildirStore here
Inbox {mail}

MaildirStore there
Inbox {copy}

Channel mail
Far :here:
Near :there:
Create Near
Sync Pull
SyncState {state}/
"""
AERC = """
[mail]
source = maildirpp://{mail}
default = INBOX
from = alice <alice@cbfs.invalid>
"""

Measure = Callable[[Path], float]
"""Seconds that something takes with a Maildir."""


def mail(quick: bool) -> Iterator[Row]:
    """10,000 and 100,000 messages in a hundred conversations, half of them unread."""
    cache = Path(os.environ.get("MAIL_CACHE", Path.home() / ".cache" / "cbfs-bench"))
    for count in map(int, "200" if quick else os.environ.get("MAIL_MESSAGES", SIZES).split()):
        place = cache / f"mail-{count}"
        _prepare(place, count)
        _forget_flags(place / "account")
        mount = Mounted(place, watchdog=7_200.0)
        with on_disk() as scratch:
            mount.mount()
            try:
                plain = scratch / "plain"  # programs move what is new
                shutil.copytree(place / "plain", plain)
                yield from _rows(mount, plain, scratch, f"{count:,}")
            finally:
                mount.close()
        yield from _floor(place / "plain", count)


def _prepare(place: Path, count: int) -> None:
    """An account, and the real Maildir of what it shows."""
    filled = place / "filled"
    if filled.exists() and filled.read_bytes() == MAGIC:
        return
    shutil.rmtree(place, ignore_errors=True)  # or of an earlier format
    place.mkdir(parents=True)
    mount = Mounted(place, watchdog=7_200.0)
    try:
        make_account(mount.account, min(CONVERSATIONS, count // 10), count)
        mount.mount()
        for box in ("new", "cur", "tmp"):
            (place / "plain" / box).mkdir(parents=True)
            for path in (mount.path / "mail" / box).iterdir():
                (place / "plain" / box / path.name).write_bytes(path.read_bytes())
        mount.unmount()
    finally:
        mount.close()
    filled.write_bytes(MAGIC)


def _forget_flags(account: Path) -> None:
    """No mail program has taken anything out of new/."""
    store = open_store(account)

    def change(writer: Writer) -> None:
        for segment in range(segments(writer)):
            writer.delete(Table.MAIL, u32(segment))

    store.write(change)
    store.close()


def _rows(mount: Mounted, plain: Path, scratch: Path, count: str) -> Iterator[Row]:
    ours, home = mount.path / "mail", scratch / "home"
    home.mkdir()
    for what, measure in (
        ("ls -f of new/ and cur/", lambda folder: taken_by(["ls", "-f", "new", "cur"], folder)),
        ("ls -l of new/ and cur/", lambda folder: taken_by(["ls", "-l", "new", "cur"], folder)),
        ("mutt opens it", _mutt(home, "mutt")),
        ("neomutt opens it", _mutt(home, "neomutt")),
        ("aerc opens it", _aerc(home)),
        ("notmuch new", _notmuch(home)),
        ("mbsync to another Maildir", _mbsync(home)),
    ):
        mount.unmount()
        mount.mount()
        for which in "first", "again":
            yield faster(f"{what}, {count}, {which}", measure(ours), PEER, measure(plain), AIM)
    for mutt in "mutt", "neomutt":
        cached = _mutt(home, mutt, cache="headers")
        cached(ours), cached(plain)
        row = f"{mutt} opens it with its header cache, {count}"
        yield faster(row, cached(ours), PEER, cached(plain), AIM)


def _floor(plain: Path, count: int) -> Iterator[Row]:
    """What reading each file once costs, by ``cat``."""
    with on_disk() as scratch, _minimal(scratch, count) as least:
        for which in "first", "again":
            ours, theirs = _read_all(least), _read_all(plain)
            what = f"minimal: cat of all, {count:,}, {which}"
            yield Row(what, duration(ours), PEER, duration(theirs), theirs / ours)


def _read_all(folder: Path) -> float:
    return taken_by(["find", ".", "-type", "f", "-exec", "cat", "{}", "+"], folder)


@contextmanager
def _minimal(place: Path, count: int) -> Iterator[Path]:
    path = place / "minimal"
    path.mkdir()
    command = [sys.executable, "-m", "tests.bench.minimal_fs", str(path), str(count)]
    with subprocess.Popen(command) as daemon:
        try:
            while not os.path.ismount(path):
                time.sleep(0.02)
            yield path
        finally:
            subprocess.run(["fusermount3", "-u", "-z", path], check=False)
            daemon.wait()


def _mutt(home: Path, program: str, cache: str = "") -> Measure:
    def opened(folder: Path) -> float:
        headers = home / f"{cache}-{program}-{folder.name}" if cache else ""
        settings = home / "muttrc"
        settings.write_text(MUTT.format(mail=folder, cache=headers))
        command = f"{program} -n -F '{settings}' -f '{folder}' -e 'push <exit>'"
        return _timed(home, "script", "-qec", command, "/dev/null")

    return opened


def _notmuch(home: Path) -> Measure:
    def indexed(folder: Path) -> float:
        index, settings = home / "index", home / "notmuch"
        shutil.rmtree(index, ignore_errors=True)
        index.mkdir()
        settings.write_text(NOTMUCH.format(index=index, mail=folder))
        return _timed(home, "notmuch", "--config", str(settings), "new")

    return indexed


def _mbsync(home: Path) -> Measure:
    def copied(folder: Path) -> float:
        copy, state, settings = home / "copy", home / "state", home / "mbsyncrc"
        for place in (copy, state):
            shutil.rmtree(place, ignore_errors=True)
        state.mkdir()
        for box in ("new", "cur", "tmp"):
            (copy / box).mkdir(parents=True)
        settings.write_text(MBSYNC.format(mail=folder, copy=copy, state=state))
        return _timed(home, "mbsync", "-c", str(settings), "mail")

    return copied


def _aerc(home: Path) -> Measure:
    """Until it shows the newest messages. It takes no Maildir for one without a folder, which every
    account has."""

    def opened(folder: Path) -> float:
        settings = home / ".config" / "aerc"
        shutil.rmtree(settings, ignore_errors=True)
        settings.mkdir(parents=True)
        accounts = settings / "accounts.conf"
        accounts.write_text(AERC.format(mail=folder))
        accounts.chmod(0o600)
        began = time.perf_counter()
        with on_screen(["aerc"], _environment(home), OPENED_MAX) as screen:
            screen.wait("see you")
            return time.perf_counter() - began

    return opened


def _environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm"}


def _timed(home: Path, *command: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        command,
        env=_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began
