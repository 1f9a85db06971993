"""Makes the stores of a version, with its code: see README.rst beside this file.

    .venv/bin/python tests/golden/make.py --commit COMMIT [--small] NAME

Uses nothing of what it stands in: programs are those of a checkout of the commit, found in its
setup.cfg, and what is done is done in their mounts.
"""

import argparse
import configparser
import fcntl
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import lmdb

T = TypeVar("T")

WAIT = 30.0
PASSPHRASE, EXPORTED = b"of the account", b"of the export"
LEFT_BEHIND = ("lock", "lock.mdb", "closed", "log", "before", "windows")
FEW = "import cbfs_common.limits; cbfs_common.limits.PREKEYS_ONE_TIME = 25; "
"""What programs that make small stores do first: prekeys would be most of them."""

START = "import sys; sys.argv[0] = {!r}; from {} import {} as main; sys.exit(main())"


class Version:
    """The programs of a checkout. ``first``: what all of them do first."""

    def __init__(self, tree: Path, first: str) -> None:
        self._start = first + START
        found = configparser.ConfigParser()
        found.read(tree / "setup.cfg")
        lines = found["options.entry_points"]["console_scripts"].split("\n")
        pairs = (line.partition("=") for line in lines if line)
        self._programs = {name.strip(): where.strip() for name, _, where in pairs}
        path = os.pathsep.join(map(str, (tree, tree / "common", tree / "server")))
        self.environment = {**os.environ, "PYTHONPATH": path}

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        module, _, function = self._programs[name].partition(":")
        start = self._start.format(name, module, function)
        return [sys.executable, "-P", "-c", start, *map(str, arguments)]

    def run(self, name: str, *arguments: str | Path, said: tuple[bytes, ...] = ()) -> None:
        """To its end. ``{0}``, ``{1}`` in an argument: a descriptor that says what is ``said``."""
        descriptors = []
        for text in said:
            read, write = os.pipe()
            os.write(write, text + b"\n")
            os.close(write)
            descriptors.append(read)
        command = self.command(name, *(str(each).format(*descriptors) for each in arguments))
        subprocess.run(
            command,
            check=True,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            timeout=WAIT,
        )
        for each in descriptors:
            os.close(each)


class Server:
    """A program that serves until the block ends."""

    def __init__(self, version: Version, name: str, data: Path, *options: str) -> None:
        command = version.command(name, "--data", data, "--listen", "127.0.0.1:0", *options)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=version.environment
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, name

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT)


def waited(look: Callable[[], T], what: str) -> T:
    """What it gives as soon as it is anything."""
    limit = time.monotonic() + WAIT
    while time.monotonic() < limit:
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"waited for {what} in vain")


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The tree of a commit."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        git = ("git", "-C", str(here), "worktree")
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def only(folder: Path, pattern: str) -> Path:
    """The one that there is; waits for it."""
    return waited(lambda: sorted(folder.glob(pattern)), f"{pattern} in {folder}")[0]


def live(place: Path, large: int) -> None:
    """What people have written: alice to bob and carol, who answer; dave to bob, who does not know
    him. A file of alice's has ``large`` bytes."""
    alice, bob, carol, dave = (place / name for name in ("alice", "bob", "carol", "dave"))
    (alice / "outbox" / "bob,carol").mkdir()
    (alice / "outbox" / "bob,carol" / "hi").write_text("hello\n")
    for who in bob, carol:
        only(who, "requests/alice").rename(who / "contacts" / "alice")
        only(who, "conversations/*/*-alice*")
    for who in bob, carol:
        box = only(who, "outbox/*-alice-bob-carol")
        (box / f"answer of {who.name}.txt").write_text(f"this is {who.name}\n")
        only(alice, f"conversations/*-bob-carol/*-{who.name}-answer*")
    box = only(alice, "outbox/*-bob-carol")
    (box / "large.bin").write_bytes(sha256(b"large").digest() * (large // 32))
    made = alice / "tmp" / "photos"
    made.mkdir()
    for number in range(3):
        (made / f"{number}.jpg").write_bytes(bytes([number]) * 1_000)
    made.rename(box / "photos")
    for who in bob, carol:
        only(who, "conversations/*/*-alice-large.bin")
        only(who, "conversations/*/*-alice-photos/2.jpg")
    contact = alice / "contacts" / "bob"
    (contact / "verified").write_bytes((contact / "fingerprint").read_bytes())
    contact.rename(alice / "contacts" / "bobby")
    (alice / "outbox" / "carol").mkdir()
    (alice / "outbox" / "carol" / "first.txt").write_text("just the two of us\n")
    talk = only(alice, "outbox/*-alice-carol")
    only(carol, "conversations/*-alice-carol/*-alice-first*")
    (talk / "metadata.toml").write_text('lifetime = "366d"\n')
    (dave / "outbox" / "bob").mkdir()
    (dave / "outbox" / "bob" / "hi").write_text("you do not know me\n")
    only(bob, "requests/dave/message")


def decide(place: Path) -> None:
    """What else there may be in an account: what alice has decided, read, removed and begun, and
    bob."""
    alice, bob = place / "alice", place / "bob"
    (alice / "outbox" / "bobby lunch").mkdir()
    (alice / "outbox" / "bobby lunch" / "when").write_text("at noon?\n")
    only(bob, "conversations/* lunch/*-alice")
    only(alice, "conversations/* lunch/*-alice")
    for who, name in (alice, "bobby"), (bob, "bob"):
        only(who, f"conversations/*-alice-{name}-carol/*-alice-photos/1.jpg").unlink()
    only(bob, "conversations/*-carol/*-carol-answer*").unlink()
    only(bob, "conversations/*-carol/*-alice-large.bin").read_bytes()
    (bob / "contacts" / "carol" / "muted").touch()
    held = only(alice, "outbox/*-alice-bobby-carol") / "later.txt"
    held.write_text("for the year 2100\n")
    os.utime(held, (4_102_444_800, 4_102_444_800))
    (alice / "ui_info" / "window").write_text("where it was\n")
    (alice / "config.toml").write_text("receipts = false\ngrace = 2.0\n")


def unread(place: Path) -> dict[str, str]:
    """Another message of alice's, which bob does not read; as ``shown`` would have it."""
    said = b"or at one?\n"
    (only(place / "alice", "outbox/* lunch") / "or").write_bytes(said)
    found = waited(lambda: sorted((place / "bob").glob("conversations/* lunch/*-alice"))[1:], "it")
    return {str(found[0].relative_to(place / "bob")): sha256(said).hexdigest()}


def told(mount: Path) -> dict[str, object]:
    """What else is shown of the conversations that have no lifetime: what was said, by whom and
    when, with whom, and what is unread."""
    found: dict[str, object] = {}
    for talk in sorted(mount.glob("conversations/*bob*")):
        about = (talk / "metadata.toml").read_text()
        kept = [line for line in about.split("\n") if line.startswith(("participants", "subject"))]
        times = {path.name: path.stat().st_mtime for path in talk.glob("*Z-*") if path.is_file()}
        found[talk.name] = [(talk / "transcript").read_text(), kept, times]
    found["unread"] = sorted(path.name for path in (mount / "unread").iterdir())
    return found


def compact(store: Path) -> None:
    """Have a store of LMDB's without its free pages, as mdb_copy(1) -c leaves it."""
    fresh = store.with_name("compact")
    fresh.mkdir()
    with lmdb.open(str(store), max_dbs=32) as env:
        env.copy(str(fresh), compact=True)
    (fresh / "data.mdb").replace(store / "data.mdb")
    fresh.rmdir()


def shown(mount: Path) -> dict[str, str]:
    """Of every file of a conversation that has no lifetime, what is in it."""
    files = sorted(mount.glob("conversations/*-bob*/*")) + sorted(
        mount.glob("conversations/*-bob*/*/*")
    )
    skipped = ("metadata.toml", "transcript")
    return {
        str(path.relative_to(mount)): sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.name not in skipped
    }


def make(tree: Path, target: Path, *, small: bool) -> None:
    """All of it. ``small``: without free pages, with few prekeys, and with one account in the
    server's store; and with what ``decide`` does."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        version = Version(tree, FEW if small else "")
        names = Server(version, "cbfs-names", place / "names", "--short", "3")
        stack.callback(names.end)
        server = Server(version, "cbfs-server", place / "server")
        stack.callback(server.end)
        other = server
        if small:
            other = Server(version, "cbfs-server", place / "other")
            stack.callback(other.end)
        people = ("alice", "bob", "carol", "dave")
        for name in people:
            account, mount = place / f"{name}-account", place / name
            mount.mkdir()
            home = (
                "--server",
                (server if name == "dave" else other).url,
                "--names",
                place / "names" / "policy",
                "--no-tor",
            )
            version.run("cbfs", "init", name, "--account", account, *home)
            version.run("mount.cbfs", account, mount, "--no-tor")
            stack.callback(subprocess.run, ["umount", "-l", str(mount)], check=False)
        live(place, 20_000 if small else 32_000)
        seen: dict[str, object] = {}
        if small:
            decide(place)
            seen["bob"] = {**shown(place / "bob"), **unread(place)}
        server.end()
        other.end()
        box = only(place / "alice", "outbox/*-bobby-carol")
        (box / "late.txt").write_text("this waits for the server\n")
        only(place / "alice", "conversations/*-bobby-carol/*-alice-late*")
        seen["alice"] = shown(place / "alice")
        if not small:
            seen["bob"] = shown(place / "bob")
        if small:
            seen["told"] = {name: told(place / name) for name in ("alice", "bob")}
        seen["accounts"] = 1 if small else 4
        seen["contacts"] = sorted(path.name for path in (place / "alice/contacts").iterdir())
        fingerprint = (place / "alice" / "contacts" / "bobby" / "fingerprint").read_text()
        for name in people:
            subprocess.run(["fusermount3", "-u", str(place / name)], check=True)
        accounts = {name: place / f"{name}-account" for name in people}
        waited(
            lambda: not any(_in_use(account) for account in accounts.values()), "accounts to close"
        )
        protect = ("passphrase", accounts["alice"], "--passphrase-fd", "{0}")
        version.run("cbfs", *protect, said=(PASSPHRASE,))
        exported = ("export", accounts["bob"], place / "export", "--passphrase-fd", "{0}")
        version.run("cbfs", *exported, said=(EXPORTED,))
        names.end()
        kept = ("alice-account", "bob-account", "server", "names")
        for name in kept if small else ():
            compact(place / name / "store")
        target.mkdir(exist_ok=True)
        (target / "seen.json").write_text(
            json.dumps({**seen, "fingerprint": fingerprint}, indent=1, sort_keys=True) + "\n"
        )
        with tarfile.open(target / "stores.tar.xz", "w:xz") as file:
            for name in (*kept, "export"):
                file.add(place / name, name, filter=_anonymous)


def _in_use(account: Path) -> bool:
    with (account / "lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Nobody's, and without what is not kept."""
    if Path(entry.name).name in LEFT_BEHIND:
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("name")
    options = parser.parse_args()
    with checkout(options.commit) as tree:
        make(tree, Path(__file__).parent / options.name, small=options.small)
