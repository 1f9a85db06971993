"""Three mounts, a message server and a name directory behind proxies that misbehave, all killed at
random while people write. At the end nothing that was saved is lost, and nothing is there twice."""

import contextlib
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.proxy import Proxy, proxy
from tests.support.world import Service, User, World, world

NAMES = ("alice", "bob", "carol")
GROUPS = {
    "alice": ("bob", "carol", "bob,carol"),
    "bob": ("alice", "alice,carol"),
    "carol": ("bob", "alice,bob"),
}
SAVED_MIN, KILLS_MIN = 10, 2
KILL_EVERY = 4.0
WRITE_EVERY = 0.4
FOLDERS = 0.15
"""Share of what is saved that is a folder."""
SETTLE = 900.0
"""Seconds that all has to arrive in when everything behaves again: back-off may take 300."""


@dataclass
class Account:
    """What was saved: text -> who is to have it. ``unsure``: the program that saved it was told of
    an error."""

    saved: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unsure: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    faults: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether so much has happened that something could have been found."""
        return len(self.saved) > SAVED_MIN and self.kills.total() >= KILLS_MIN

    def report(self) -> str:
        """In lines."""
        kills = ", ".join(f"{who} {count}" for who, count in sorted(self.kills.items()))
        return (
            f"messages sent:   {len(self.saved)} (and {len(self.unsure)} whose saving failed)\n"
            f"faults injected: {self.faults}\n"
            f"kills:           {self.kills.total()} ({kills})\n"
            f"strange:         {len(self.strange)}\n"
            f"lost:            {len(self.lost)}\n"
            f"duplicated:      {len(self.doubled)}"
        )


class Writer(threading.Thread):
    """Saves files in the outbox of one user, in conversations old and new."""

    def __init__(self, user: User, account: Account, seed: int) -> None:
        super().__init__(daemon=True)
        self._user = user
        self._account = account
        self._random = random.Random(seed)
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.wait(WRITE_EVERY * 2 * self._random.random()):
            number += 1
            text = f"{number} of {self._user.name}\n"
            people: tuple[str, ...] = ()
            try:
                folder, people = self._folder()
                if self._random.random() < FOLDERS:
                    self._move_in(folder, number, text)
                else:
                    (folder / f"{number}.txt").write_text(text)
                self._account.saved[text] = people
            except OSError:
                self._account.unsure[text] = people

    def _move_in(self, folder: Path, number: int, text: str) -> None:
        """The same in a folder that is made in tmp/, which a kill empties."""
        top = self._user.mountpoint / "tmp" / f"folder-{number}"
        (top / "deep").mkdir(parents=True)
        for name, words in files_of(text).items():
            (top / name).write_text(words)
        top.rename(folder / top.name)

    def _folder(self) -> tuple[Path, tuple[str, ...]]:
        """A folder of the outbox, and everybody who is to have what is saved there."""
        outbox = self._user.mountpoint / "outbox"
        known = [path for path in outbox.iterdir() if (path / "metadata.toml").exists()]
        if known and self._random.random() < 0.97:
            path = self._random.choice(known)
            people = tuple(name for name in NAMES if f'"{name}"' in _metadata(path))
            return path, people
        group = self._random.choice(GROUPS[self._user.name])
        (outbox / group).mkdir(exist_ok=True)
        return outbox / group, (self._user.name, *group.split(","))


def files_of(text: str) -> dict[str, str]:
    """What a folder that says ``text`` holds: more than one envelope does."""
    return {"deep/long.txt": text * 2_000, "text.txt": text}


def said(message: Path) -> str:
    """What a message says; something strange when it is a folder that is not whole."""
    if not message.is_dir():
        return message.read_text()
    files = {
        str(path.relative_to(message)): path.read_text()
        for path in message.rglob("*")
        if path.is_file()
    }
    text = files.get("text.txt", "")
    return text if files == files_of(text) else f"{message.name} with {sorted(files)}"


def _metadata(path: Path) -> str:
    return (path / "metadata.toml").read_text()


@contextlib.contextmanager
def _behind_proxies(here: World, seed: int) -> Iterator[list[Proxy]]:
    """Users that are made within reach both servers through proxies only."""
    with contextlib.ExitStack() as stack:
        made = []
        for number, service in enumerate((here.server, here.names)):
            address, _, port = service.url.rpartition(":")
            made.append(stack.enter_context(proxy(seed + number, int(port))))
            through = f"{address}:{made[-1].port}"
            policy = here.place / "names" / "policy"
            policy.write_text(policy.read_text().replace(service.url, through))
            service.url = through
        yield made


def soak(seconds: float, seed: int, settle: float = SETTLE) -> Account:
    """Run it for so long, and until enough has happened, however slow the machine is."""
    account = Account()
    chance = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="cbfs-soak-", dir="/var/tmp") as place,
        world(Path(place)) as here,
        _behind_proxies(here, seed) as proxies,
    ):
        for each in proxies:
            each.calm()  # accounts are made in peace
        users = [here.user(name) for name in NAMES]
        for each in proxies:
            each.rage()
        writers = [Writer(user, account, seed + n) for n, user in enumerate(users)]
        for writer in writers:
            writer.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end or not account.is_enough:
            time.sleep(KILL_EVERY * 2 * chance.random())
            victims: list[User | Service] = [*users, here.server, here.names]
            _kill(chance.choice(victims), account)
        for writer in writers:
            writer.ended.set()
            writer.join()
        for each in proxies:
            each.calm()
        account.faults = sum(each.faults for each in proxies)
        _settle(users, account, settle)
    return account


def _kill(victim: User | Service, account: Account) -> None:
    account.kills[victim.name] += 1
    if isinstance(victim, User):
        victim.kill()
        victim.mount()
    else:
        victim.end(signal.SIGKILL)
        victim.start()


def _settle(users: list[User], account: Account, seconds: float) -> None:
    """Until everybody has everything, or the time is over; then say what is not as it must be."""
    end = time.monotonic() + seconds
    while True:
        lost, doubled, strange = _look(users, account)
        if not lost or time.monotonic() > end:
            break
        time.sleep(2)
    account.lost, account.doubled, account.strange = lost, doubled, strange


def _look(users: list[User], account: Account) -> tuple[list[str], list[str], list[str]]:
    lost, doubled, strange = [], [], []
    for user in users:
        there = Counter(said(path) for path in user.messages())
        for text, people in account.saved.items():
            if user.name in people and not there[text]:
                lost.append(f"{text.strip()} at {user.name}")
        for text, count in there.items():
            if count > 1:
                doubled.append(f"{text.strip()} at {user.name}")
            if text not in account.saved and text not in account.unsure:
                strange.append(f"{text.strip()} at {user.name}")
    return lost, doubled, strange
