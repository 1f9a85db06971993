"""One account on three machines: a hub, and two that mount it over ssh at 20 ms, by whose links
somebody goes: cut, stopped and killed at random, as are all programs, while people write. At the
end each message is there once, for everybody."""

import errno
import os
import random
import re
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.remote import Laptop, Network, Sshd
from tests.support.world import User, world

CUTS = 50
"""How often a link is cut in one run, however long that is."""

DELAY = 0.010
"""Seconds each way."""

SETTLE = 600.0
"""Seconds that all has to arrive in when everything behaves again."""

WRITES_FOR_EACH_CUT = 3

GRACE = 4.0
"""Seconds for which the hub holds what is handed over: what rm removes in half of that, counted
from before it was saved, is not sent. Later it may have been, and rm says 0, as at the hub."""

SECOND_THOUGHTS = 0.4
"""Of the files saved on the two machines, those that are moved or removed at once."""


@dataclass
class Outcome:
    """What was saved where, and what is wrong at the end."""

    saved: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    moved: int = 0
    removed: list[str] = field(default_factory=list)
    refused: int = 0
    looks: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def report(self) -> str:
        """In lines."""
        cuts = ", ".join(f"{how} {count}" for how, count in sorted(self.cuts.items()))
        return (
            f"saved on two machines: {len(self.saved)}, answers: {len(self.answers)},"
            f" moved: {self.moved}, removed: {len(self.removed)},"
            f" refused with an error: {self.refused}, looks: {self.looks}\n"
            f"links cut: {self.cuts.total()} ({cuts})\n"
            f"wrong: {len(self.wrong)}"
        )


class _Town:
    """The hub of alice, her two machines, and bob."""

    def __init__(self, place: Path, stack: ExitStack, seed: int) -> None:
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self._number = 0
        town = stack.enter_context(world(place))
        self.hub, self.bob = town.user("alice"), town.user("bob")
        self.hub.unmount()
        self.hub.mount(f"grace={GRACE}")
        served = Sshd(place / "sshd")
        stack.callback(served.close)
        self.networks: list[Network] = []
        self.machines: list[Laptop] = []
        for name in ("one", "two"):
            network = Network(served.port, DELAY)
            stack.callback(network.close)
            machine = Laptop(place / name, self.hub.account, served.client(name, network.port))
            stack.callback(machine.close)
            machine.mount()
            self.networks.append(network)
            self.machines.append(machine)

    def _mount_hub(self) -> None:
        """Mount it again: a link that was quicker has started a daemon without a mount."""
        end = time.monotonic() + SETTLE
        while True:
            try:
                self.hub.mount(f"grace={GRACE}")
            except AssertionError as error:
                has_it = re.search(r"in use by process (\d+)", str(error))
                if has_it is None or time.monotonic() > end:
                    raise
                with suppress(ProcessLookupError):
                    os.kill(int(has_it[1]), signal.SIGKILL)
                time.sleep(0.1)
            else:
                return

    def begin(self) -> None:
        """Begin the conversation that all is said in."""
        outbox = self.machines[0].path / "outbox/bob"
        outbox.mkdir()
        (outbox / "first").write_text("the first one\n")
        self.outcome.saved.append("the first one\n")
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            if any(self.bob.mountpoint.glob("conversations/*/*-alice")):
                return
            time.sleep(0.1)
        raise AssertionError("nothing has arrived at all")

    def write(self, at: Path, sender: str, texts: list[str]) -> None:
        """Save a file in the outbox of a mount; one that was refused may be there or not."""
        self._number += 1
        number = self._number
        text = f"{sender} {number} " + "x" * self.random.randrange(3_000) + "\n"
        try:
            folder = next(path for path in (at / "outbox").iterdir() if "bob" in path.name)
            file, began = folder / f"{sender}{number}", time.monotonic()
            file.write_text(text)
        except (OSError, StopIteration):
            self.outcome.refused += 1
        else:
            self._change(file, text, texts, began)

    def _change(self, file: Path, text: str, texts: list[str], began: float) -> None:
        """Of some, have second thoughts. What is moved is there once, as what is not; of what rm
        has removed nothing comes; where it says that it does not know, either may be."""
        thought = self.random.random()
        if thought >= SECOND_THOUGHTS or not file.name.startswith("on-"):
            texts.append(text)
        elif thought >= SECOND_THOUGHTS / 2:
            texts.append(text)
            with suppress(OSError):
                file.rename(file.with_name(f"{file.name}-moved"))
                self.outcome.moved += 1
        else:
            try:
                file.unlink()
            except FileNotFoundError:
                texts.append(text)  # it has been sent
            except OSError as error:
                if error.errno == errno.EBUSY:
                    texts.append(text)
            else:
                if time.monotonic() < began + GRACE / 2:
                    self.outcome.removed.append(text)

    def look(self, machine: Laptop) -> None:
        """What somebody does who reads."""
        with suppress(OSError):
            for folder in (machine.path / "conversations").iterdir():
                for path in sorted(folder.iterdir())[-3:]:
                    path.read_bytes()
            (machine.path / "status").read_bytes()
        self.outcome.looks += 1

    def cut(self) -> None:
        """One of what happens to a link."""
        which = self.random.randrange(2)
        network, machine = self.networks[which], self.machines[which]
        kinds = ("cut", "byte", "byte", "byte", "away", "stall", "ssh", "machine", "hub")
        how = self.random.choice(kinds)
        self.outcome.cuts[how] += 1
        if how == "cut":
            network.cut()
        elif how == "byte":
            network.cut_after(self.random.randrange(1, 12_000))
        elif how == "away":
            network.cut(stays_down=True)
        elif how == "stall":
            network.stall()
        elif how == "ssh":
            with suppress(OSError):
                os.kill(machine.ssh_pid() or 1 << 30, signal.SIGKILL)
        elif how == "machine":
            machine.kill()
            network.mend()
            _mounted(machine)
        else:
            self.hub.kill()
            self._mount_hub()


def _mounted(machine: Laptop) -> None:
    """Mount it again: the hub may be away just then."""
    end = time.monotonic() + SETTLE
    while True:
        try:
            machine.mount()
        except AssertionError:
            machine.kill()
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def soak(seconds: float, seed: int, cuts: int = CUTS) -> Outcome:
    """Let people write for about so long, with so many cuts, and compare what is where."""
    with tempfile.TemporaryDirectory(prefix="cbfs-hub-", dir="/var/tmp") as place, ExitStack() as s:
        town = _Town(Path(place), s, seed)
        town.begin()
        began = time.monotonic()
        for number in range(cuts):
            for _ in range(WRITES_FOR_EACH_CUT):
                for machine in town.machines:
                    town.write(machine.path, f"on-{machine.place.name}", town.outcome.saved)
                    town.look(machine)
                town.write(town.bob.mountpoint, "from-bob", town.outcome.answers)
            town.cut()
            due = began + (number + 1) * seconds / cuts
            time.sleep(max(0.0, due - time.monotonic()))
            for network in town.networks:
                network.mend()
        for network in town.networks:
            network.cut_after(-1)
        _settle(town)
        return town.outcome


def _settle(town: _Town) -> None:
    """Wait until all is there, and say what is wrong."""
    outcome = town.outcome
    end = time.monotonic() + SETTLE
    places = [machine.path for machine in town.machines]
    while time.monotonic() < end:
        sent = _texts(town.bob, "alice")
        there = [_read(path, "bob") for path in places]
        everything = not set(outcome.saved) - sent.keys()
        if everything and all(not set(outcome.answers) - each.keys() for each in there):
            break
        time.sleep(0.5)
    sent = _texts(town.bob, "alice")
    lost = set(outcome.saved) - sent.keys()
    outcome.wrong += [f"lost: {text[:40]}" for text in lost]
    outcome.wrong += [f"removed, and sent: {t[:40]}" for t in outcome.removed if t in sent]
    outcome.wrong += [f"{count} times: {text[:40]}" for text, count in sent.items() if count > 1]
    for path in places:
        found = _read(path, "bob")
        missing = set(outcome.answers) - found.keys()
        outcome.wrong += [f"not at {path.parent.name}: {text[:40]}" for text in missing]
        outcome.wrong += [f"{n} at {path.parent.name}: {t[:40]}" for t, n in found.items() if n > 1]
    for machine in town.machines:
        outcome.wrong += [f"still waits: {path.name}" for path in machine.waits()]


def _texts(user: User, sender: str) -> Counter[str]:
    return _read(user.mountpoint, sender)


def _read(mount: Path, sender: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in mount.glob(f"conversations/*/*-{sender}*"):
        with suppress(OSError):
            found[path.read_text()] += 1
    return found
