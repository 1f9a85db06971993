"""Programs of the desktop: the libraries that most of them save with, and some of them whole."""

import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from tests.programs.place import LETTER, Case, Place, version_of
from tests.programs.screen import Screen, screen
from tests.programs.tools import Tool
from tests.support.world import WAIT, wait_for

_SYSTEM_PYTHON = "/usr/bin/python3"
"""The one that Debian's bindings are for."""

_GLIB = """
from gi.repository import GLib
import sys
GLib.file_set_contents("letter.txt", sys.argv[1].encode())
"""
_GIO = """
from gi.repository import Gio
import sys
file = Gio.File.new_for_path("letter.txt")
flags = Gio.FileCreateFlags.PRIVATE
file.replace_contents(sys.argv[1].encode(), None, "backup" in sys.argv, flags, None)
"""
_QSAVEFILE = """
from PyQt5.QtCore import QIODevice, QSaveFile
import sys
file = QSaveFile("letter.txt")
file.open(QIODevice.WriteOnly) or sys.exit(file.errorString())
file.write(sys.argv[1].encode())
file.commit() or sys.exit(file.errorString())
"""
_WRITER = """
import os, subprocess, sys, time, uno
from com.sun.star.beans import PropertyValue
from com.sun.star.connection import NoConnectException
from com.sun.star.lang import DisposedException
home, folder, rounds = sys.argv[1], os.getcwd(), sys.argv[2:]
pipe = f"pipe,name=cbfs{os.getpid()}"
office = subprocess.Popen(["soffice", "--headless", "--norestore", "--nologo", "--nodefault",
    f"-env:UserInstallation=file://{home}/office", f"--accept={pipe};urp;"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
here = uno.getComponentContext()
resolver = here.ServiceManager.createInstanceWithContext(
    "com.sun.star.bridge.UnoUrlResolver", here)
for _ in range(2000):
    try:
        there = resolver.resolve(f"uno:{pipe};urp;StarOffice.ComponentContext")
        break
    except NoConnectException:
        time.sleep(0.1)
desktop = there.ServiceManager.createInstanceWithContext("com.sun.star.frame.Desktop", there)
url = f"file://{folder}/letter.odt"
old = os.path.exists("letter.odt")
document = desktop.loadComponentFromURL(url if old else "private:factory/swriter", "_blank", 0, ())
for text in rounds:
    if text == "kill":
        os.killpg(office.pid, 9)
        office.wait()
        sys.exit()
    document.Text.setString(text)
    if old:
        document.store()
    else:
        document.storeAsURL(url, ())
        old = True
    print(sorted(set(os.listdir(folder)) - {"metadata.toml"}), flush=True)
    if text != rounds[-1]:
        print("next", flush=True)
        sys.stdin.readline()
document.close(True)
try:
    desktop.terminate()
except DisposedException:  # it has ended before it could answer
    pass
office.wait()
"""


def _python(package: str, name: str, script: str, arguments: str = "") -> Tool:
    command = f"{_SYSTEM_PYTHON} -c '{script}'"
    return Tool(
        name,
        package,
        f"{command} first {arguments}",
        f"{command} new {arguments}",
        f"{command} second {arguments}",
    )


LIBRARIES = (
    _python("libglib2.0-0", "g_file_set_contents", _GLIB),
    _python("libglib2.0-0", "GIO replace", _GIO),
    _python("libglib2.0-0", "GIO replace, backup", _GIO, "backup"),
    _python("libqt5core5a", "QSaveFile", _QSAVEFILE),
)


@dataclass(frozen=True)
class Window:
    """An editor with a window. ``=`` is typed until it listens, as its title then tells."""

    name: str
    command: tuple[str, ...]
    package: str

    def _start(self, place: Place, on: Screen, text: str) -> subprocess.Popen[bytes]:
        process = on.start([*self.command, LETTER], place.folder)
        window = on.wait_title(LETTER)
        on.tool("xdotool", "mousemove", "--window", window, "300", "200")

        def changed() -> bool:
            on.type("=")
            return "*" in on.tool("xdotool", "getwindowname", window).stdout.decode()

        wait_for(changed, f"{self.name} to listen")
        on.type(text)
        return process

    def _save(self, place: Place, on: Screen, text: str) -> None:
        on.keys("ctrl+s")
        place.saved(text)
        place.finished()

    def _leave(self, on: Screen, process: subprocess.Popen[bytes]) -> None:
        """With what it may ask unanswered: what was saved is saved."""
        on.keys("ctrl+q")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT)

    def new(self, place: Place) -> None:
        with screen(place.environment) as on:
            process = self._start(place, on, "first")
            self._save(place, on, "first")
            self._leave(on, process)

    def existing(self, place: Place) -> None:
        place.existing()
        self.new(place)

    def killed(self, place: Place) -> None:
        """Before anything was saved, and started again."""
        with screen(place.environment) as on:
            process = self._start(place, on, "lost")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT)
        self.new(place)

    def cases(self) -> Iterator[Case]:
        for scenario, drive in (
            ("new", self.new),
            ("existing", self.existing),
            ("killed, again", self.killed),
        ):
            yield Case(
                self.name,
                scenario,
                drive,
                version_of(self.package),
                normal=lambda data: data.replace(b"=", b""),
            )


WINDOWS = (
    Window("gedit", ("gedit", "-s"), "gedit"),
    Window("kate", ("kate", "-n"), "kate"),
)


class Writer:
    """LibreOffice, told by its own protocol to do what its menus do."""

    document = "letter.odt"

    def _run(self, place: Place, *rounds: str) -> None:
        office = subprocess.Popen(
            [_SYSTEM_PYTHON, "-c", _WRITER, str(place.home), *rounds],
            cwd=place.folder,
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if office.stdin is None or office.stdout is None:
            raise AssertionError("no pipes")
        for line in office.stdout:
            if line == "next\n":
                place.pass_grace()
                office.stdin.write("\n")
                office.stdin.flush()
            else:
                place.tell(line)
        office.stdin.close()
        office.stdout.close()
        place.tell(f"ended with {office.wait(WAIT)}")

    def new(self, place: Place) -> None:
        self._run(place, "first")
        place.finished(self.document)

    def existing(self, place: Place) -> None:
        elsewhere = Place(place.home / "elsewhere", place.home / "other")
        elsewhere.folder.mkdir()
        self._run(elsewhere, "old")
        place.existing(self.document, (elsewhere.folder / self.document).read_bytes())
        self._run(place, "new")
        place.finished(self.document)

    def twice(self, place: Place) -> None:
        """With more than the grace between the two, while it is open."""
        self._run(place, "first", "second")
        place.finished(self.document)

    def killed(self, place: Place) -> None:
        """After it was saved, which finishes that; then another is written."""
        self._run(place, "first", "kill")
        place.finished(self.document)
        place.sent(self.document)
        self._run(place, "again")
        place.finished(self.document)

    def cases(self) -> Iterator[Case]:
        for scenario, drive in (
            ("new", self.new),
            ("existing", self.existing),
            ("twice", self.twice),
            ("killed, again", self.killed),
        ):
            version = version_of("libreoffice-writer-nogui")
            yield Case("LibreOffice Writer", scenario, drive, version, normal=_words)


def _words(document: bytes) -> bytes:
    """Those of an OpenDocument file, which has the time of saving in it."""
    with zipfile.ZipFile(BytesIO(document)) as parts:
        return b" ".join(re.findall(rb">([^<>]+)</text:p>", parts.read("content.xml")))


def desktop_cases() -> Iterator[Case]:
    """All of them, the slow ones first."""
    yield from Writer().cases()
    for window in WINDOWS:
        yield from window.cases()
    for library in LIBRARIES:
        yield from library.cases()
