"""Rows of mail/: what mail programs do with very many messages, beside a real Maildir of the same
messages."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.at_size import make_account
from tests.bench.mounts import taken_by
from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.mounted import Mounted

PEER = "a real Maildir"
AIM = 0.5
"""At most twice as long."""

MUTT = """
set mbox_type = Maildir
set folder = "{mail}"
set header_cache =
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


def mail(quick: bool) -> Iterator[Row]:
    """10,000 and 100,000 messages in a hundred conversations, half of them unread."""
    for count in (200,) if quick else (10_000, 100_000):
        with on_disk() as place:
            mount = Mounted(place, watchdog=7_200.0)
            make_account(mount.account, 10 if quick else 100, count)
            mount.mount()
            try:
                yield from _rows(mount, place, count)
            finally:
                mount.close()


def _rows(mount: Mounted, place: Path, count: int) -> Iterator[Row]:
    ours, plain = mount.path / "mail", place / "plain"
    for box in ("new", "cur", "tmp"):
        (plain / box).mkdir(parents=True)
        for path in (ours / box).iterdir():
            (plain / box / path.name).write_bytes(path.read_bytes())
    home = place / "home"
    home.mkdir()

    def listed(folder: Path) -> float:
        return taken_by(["ls", "-f", "new", "cur"], folder)

    def sized(folder: Path) -> float:
        return taken_by(["ls", "-l", "new", "cur"], folder)

    def opened(folder: Path) -> float:
        settings = home / "muttrc"
        settings.write_text(MUTT.format(mail=folder))
        mutt = f"mutt -n -F '{settings}' -f '{folder}' -e 'push <exit>'"
        return _timed(home, "script", "-qec", mutt, "/dev/null")

    def indexed(folder: Path) -> float:
        index, settings = home / "index", home / "notmuch"
        shutil.rmtree(index, ignore_errors=True)
        index.mkdir()
        settings.write_text(NOTMUCH.format(index=index, mail=folder))
        return _timed(home, "notmuch", "--config", str(settings), "new")

    for what, measure in (
        ("ls -f of new/ and cur/", listed),
        ("ls -l of new/ and cur/", sized),
        ("mutt opens it", opened),
        ("notmuch new", indexed),
    ):
        mount.unmount()
        mount.mount()
        yield faster(f"{what}, {count:,}, first", measure(ours), PEER, measure(plain), AIM)
        yield faster(f"{what}, {count:,}, again", measure(ours), PEER, measure(plain), AIM)


def _timed(home: Path, *command: str) -> float:
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "xterm",
    }
    began = time.perf_counter()
    subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began
