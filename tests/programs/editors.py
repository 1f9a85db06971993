"""Editors in a terminal: they keep a file open in the user's eyes until they are left."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.programs.place import LETTER, Case, Place, version_of
from tests.programs.terminal import Terminal
from tests.support.world import wait_for

ESC = "\x1b"
END = "="


def control(letter: str) -> str:
    """The key with Ctrl."""
    return chr(ord(letter.upper()) - 64)


@dataclass(frozen=True)
class Editor:
    """``write`` makes keys of a text to be put in; ``shows`` is on the screen when the file is
    open; ``recover`` are keys for what the editor asks after a crash, when ``asks`` is shown
    (by some only when ``nudge`` is typed);
    ``lock`` is what it keeps beside a file that is being changed."""

    name: str
    command: tuple[str, ...]
    write: Callable[[str], str]
    save: str
    leave: str
    shows: str = LETTER
    asks: str = ""
    recover: str = ""
    nudge: str = ""
    lock: str = ""
    package: str = ""

    def start(self, place: Place) -> Terminal:
        terminal = Terminal([*self.command, LETTER], place.folder, place.environment)
        terminal.wait(self.shows)
        return terminal

    def type(self, terminal: Terminal, text: str) -> None:
        """Until its end is on the screen, which has it nowhere else."""
        text += END
        seen = len(terminal.text)
        terminal.send(self.write(text))
        terminal.wait(END, seen)

    def put(self, place: Place, terminal: Terminal, text: str) -> None:
        """Type and save."""
        self.type(terminal, text)
        terminal.send(self.save)
        place.saved(text + END)

    def end(self, place: Place, terminal: Terminal) -> None:
        """Leave it, which finishes what it has saved."""
        place.finished()
        terminal.send(self.leave)
        place.tell(f"ended with {terminal.ended()}")
        place.complaints(terminal.text)

    # scenarios

    def new(self, place: Place) -> None:
        terminal = self.start(place)
        self.put(place, terminal, "first")
        self.end(place, terminal)

    def existing(self, place: Place) -> None:
        place.existing()
        self.new(place)

    def twice(self, place: Place) -> None:
        """With more than the grace between the two."""
        terminal = self.start(place)
        self.put(place, terminal, "first")
        place.pass_grace()
        self.put(place, terminal, "second")
        place.pass_grace()
        self.end(place, terminal)

    def killed(self, place: Place) -> None:
        """Before anything was saved, and started again."""
        terminal = self.start(place)
        self.type(terminal, "lost")
        if self.lock:
            lock = place.folder / self.lock
            wait_for(lambda: os.path.lexists(lock), f"{lock}")
        terminal.kill()
        terminal = self.start(place)
        if self.asks:
            terminal.send(self.nudge)
            terminal.wait(self.asks)
            seen = len(terminal.text)
            terminal.send(self.recover)
            terminal.wait(self.shows if not self.nudge else self.nudge, seen)
        self.put(place, terminal, "again")
        self.end(place, terminal)

    def crashed(self, place: Place) -> None:
        """After it was saved: what a crashed editor leaves behind holds no message."""
        place.existing()
        terminal = self.start(place)
        self.put(place, terminal, "first")
        place.pass_grace()
        if self.lock == LINK:  # it goes with the last change
            wait_for(lambda: not os.path.lexists(place.folder / LINK), f"no {LINK}")
        terminal.kill()
        place.finished()
        place.sent()

    def cases(self) -> Iterator[Case]:
        version = version_of(self.package or self.command[0])
        for scenario, drive in (
            ("new", self.new),
            ("existing", self.existing),
            ("twice", self.twice),
            ("killed, again", self.killed),
            ("killed, saved", self.crashed),
        ):
            yield Case(self.name, scenario, drive, version)


SWAP, LINK = f".{LETTER}.swp", f".#{LETTER}"
VIM = Editor(
    "vim",
    ("vim",),
    lambda text: f"i{text}{ESC}",
    ":w\r",
    ":q!\r",
    asks="bort:",
    recover="e",
    lock=SWAP,
)
NANO = Editor(
    "nano",
    ("nano",),
    lambda text: text,
    control("o") + "\r",
    control("x"),
    shows="er.txt",  # asking, it cuts the name when the number of a process is long
    asks="open anyway?",
    recover="y",
    lock=SWAP,
)
EMACS = Editor(
    "emacs",
    ("emacs", "-nw", "-Q"),
    lambda text: text,
    control("x") + control("s"),
    control("x") + control("c"),
    lock=LINK,
    package="emacs-nox",
)
EDITORS = (
    VIM,
    replace(VIM, name="vim backup", command=("vim", "--cmd", "set backup undofile")),
    replace(VIM, name="vim in place", command=("vim", "--cmd", "set backupcopy=yes backup")),
    NANO,
    replace(NANO, name="nano -G", command=("nano", "-G", "-B")),
    EMACS,
    Editor("micro", ("micro",), lambda text: text, control("s"), control("q")),
    Editor("ne", ("ne",), lambda text: text, control("s"), control("q")),
    Editor(
        "joe",
        ("joe",),
        lambda text: text,
        control("k") + "d\r",
        control("k") + "q",
        asks="teal lock",
        recover="s",
        nudge="x",
        lock=LINK,
    ),
    Editor("ed", ("ed", "-p*"), lambda text: f"0a\r{text}\r.\r", "w\r", "q\r", shows="*"),
)


def editor_cases() -> Iterator[Case]:
    """All of them."""
    for editor in EDITORS:
        yield from editor.cases()
