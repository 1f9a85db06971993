"""Makes the stores of a version, with its code: see README.rst beside this file.

    .venv/bin/python tests/golden/make.py --commit COMMIT NAME

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

T = TypeVar("T")

WAIT = 30.0
PASSPHRASE, EXPORTED = b"of the account", b"of the export"
LEFT_BEHIND = ("lock", "lock.mdb", "closed", "log", "before", "windows")
START = "import sys; sys.argv[0] = {!r}; from {} import {} as main; sys.exit(main())"


class Version:
    """The programs of a checkout."""

    def __init__(self, tree: Path) -> None:
        found = configparser.ConfigParser()
        found.read(tree / "setup.cfg")
        lines = found["options.entry_points"]["console_scripts"].split("\n")
        pairs = (line.partition("=") for line in lines if line)
        self._programs = {name.strip(): where.strip() for name, _, where in pairs}
        path = os.pathsep.join(map(str, (tree, tree / "common", tree / "server")))
        self.environment = {**os.environ, "PYTHONPATH": path}

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        module, _, function = self._programs[name].partition(":")
        start = START.format(name, module, function)
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


def live(place: Path) -> None:
    """What people have written: alice to bob and carol, who answer; dave to bob, who does not know
    him."""
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
    (box / "large.bin").write_bytes(sha256(b"large").digest() * 1_000)
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


def shown(mount: Path) -> dict[str, str]:
    """Of every file of a conversation that has no lifetime, what is in it."""
    files = sorted(mount.glob("conversations/*-bob*-carol/*")) + sorted(
        mount.glob("conversations/*-bob*-carol/*/*")
    )
    skipped = ("metadata.toml", "transcript")
    return {
        str(path.relative_to(mount)): sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.name not in skipped
    }


def make(tree: Path, target: Path) -> None:
    """All of it."""
    version = Version(tree)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        names = Server(version, "cbfs-names", place / "names", "--short", "3")
        stack.callback(names.end)
        server = Server(version, "cbfs-server", place / "server")
        stack.callback(server.end)
        people = ("alice", "bob", "carol", "dave")
        for name in people:
            account, mount = place / f"{name}-account", place / name
            mount.mkdir()
            home = ("--server", server.url, "--names", place / "names" / "policy", "--no-tor")
            version.run("cbfs", "init", name, "--account", account, *home)
            version.run("mount.cbfs", account, mount, "--no-tor")
            stack.callback(subprocess.run, ["umount", "-l", str(mount)], check=False)
        live(place)
        server.end()
        box = only(place / "alice", "outbox/*-bobby-carol")
        (box / "late.txt").write_text("this waits for the server\n")
        only(place / "alice", "conversations/*-bobby-carol/*-alice-late*")
        seen: dict[str, object] = {name: shown(place / name) for name in ("alice", "bob")}
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
        target.mkdir(exist_ok=True)
        (target / "seen.json").write_text(
            json.dumps({**seen, "fingerprint": fingerprint}, indent=1, sort_keys=True) + "\n"
        )
        with tarfile.open(target / "stores.tar.xz", "w:xz") as file:
            for name in ("alice-account", "bob-account", "server", "names", "export"):
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
    parser.add_argument("name")
    options = parser.parse_args()
    with checkout(options.commit) as tree:
        make(tree, Path(__file__).parent / options.name)
