"""What is watched shows what arrives by itself: tools, and windows of file managers."""

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.programs.place import Place
from tests.programs.screen import screen
from tests.support.mounted import Mounted, Watch, mounted
from tests.support.world import WAIT, wait_for

pytestmark = pytest.mark.mount


@pytest.fixture
def mount() -> Iterator[Mounted]:
    with mounted() as mount:
        mount.arrive("bob", "See you at the station at ten.")
        mount.wait_messages("See you at the station at ten.\n", sender="bob")
        yield mount


def folder_of(mount: Mounted) -> Path:
    (folder,) = (mount.path / "conversations").iterdir()
    return folder


class Output:
    """A program that goes on telling what it sees."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        if self._process.stdout is not None:
            self.lines.extend(self._process.stdout)

    def _read_on(self) -> str:
        return "".join(self.lines)

    def wait(self, part: str, count: int = 1) -> None:
        wait_for(lambda: self._read_on().count(part) >= count, f"{part!r}: {self.lines[-5:]}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT)
        self._reader.join(WAIT)
        if self._process.stdout is not None:
            self._process.stdout.close()


def test_inotifywait(mount: Mounted) -> None:
    output = Output("inotifywait", "-m", str(folder_of(mount)))
    output.wait("Watches established")
    for number in range(20):
        mount.arrive("bob", str(number))
    output.wait("MOVED_TO", 20)
    output.close()


def test_gio_monitor(mount: Mounted) -> None:
    output = Output("gio", "monitor", "-d", str(folder_of(mount)))
    numbers = iter(range(1000))

    def seen() -> bool:
        mount.arrive("bob", str(next(numbers)))
        return any("Z-bob" in line for line in output.lines)

    wait_for(seen, "gio monitor to tell of an arrival")
    output.close()


def test_tail_follows_the_status(mount: Mounted) -> None:
    output = Output("tail", "-n", "+1", "-f", str(mount.path / "status"))
    output.wait("connected to nothing")
    mount.run("mkdir outbox/bob; touch -d tomorrow tmp/held.txt; echo x > tmp/held.txt")
    mount.run("touch -d tomorrow tmp/held.txt; mv tmp/held.txt outbox/bob/")
    output.wait("held.txt")
    output.close()


def test_a_burst_of_a_thousand(mount: Mounted) -> None:
    """Every one is seen, and the mount answers all along."""
    watch, folder = Watch(folder_of(mount)), folder_of(mount)
    texts = [f"text {number}" for number in range(1000)]

    def send() -> None:
        for text in texts:
            mount.arrive("bob", text)

    sender = threading.Thread(target=send)
    sender.start()
    answers = 0
    while sum("Z-bob" in name for name in watch.names) < len(texts):
        watch.wait("Z-bob", min(len(watch.names) + 100, len(texts)))
        assert "connected" in (mount.path / "status").read_text()
        assert len(list(folder.iterdir())) > answers
        (mount.path / "tmp" / "file").write_text("text")
        answers += 1
    sender.join(WAIT)
    watch.close()
    assert len(set(watch.names)) == len(texts)
    assert {path.read_text() for path in folder.glob("*Z-bob*")} >= {f"{text}\n" for text in texts}


@pytest.mark.parametrize("manager", ["thunar", "pcmanfm"])
def test_a_window_shows_what_arrives(mount: Mounted, manager: str, tmp_path: Path) -> None:
    folder = folder_of(mount)
    place = Place(folder, tmp_path / "home")
    with screen(place.environment) as on:
        process = on.start([manager, str(folder)], tmp_path)
        on.wait_title(folder.name)
        shots: list[bytes] = []

        def rests() -> bool:
            shots.append(on.picture(tmp_path / "before.png"))
            return len(shots) > 4 and len(set(shots[-5:])) == 1

        wait_for(rests, "the window to come to rest")
        mount.arrive("bob", "Bring the tickets.")
        wait_for(lambda: on.picture(tmp_path / "after.png") != shots[-1], "the window to change")
        if kept := os.environ.get("PICTURES"):
            mount.arrive("bob", "And the map.")
            shots.clear()
            wait_for(rests, "the window to come to rest")
            on.picture(Path(kept) / f"{manager}.png")
        process.terminate()
        process.wait(WAIT)


def test_a_screen_takes_everybody_while_others_leave_it() -> None:
    with screen(dict(os.environ)) as on, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: on.tool("xdotool", "getmouselocation"), range(200)))
    assert not [tool.stderr for tool in done if tool.returncode]
