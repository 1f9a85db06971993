"""The sending rule over recorded save sequences: what each program does, step by step, and which
messages must come of it. The sequences are those of fuse-facts.md."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.outbox.rule import Draft, Lock, folder_verdict, original_of, verdict
from cbfs.tree.processes import Process
from cbfs.tree.rules import is_backup, is_scratch, lock_names

GRACE = 1.0


@dataclass
class Saved:
    """One inode of a folder that is played."""

    content: str = ""
    changed: float = 0.0
    writers: int = 0
    author: Process | None = None
    sent: str = ""
    target: bytes = b""
    spare: bool = False
    touched: dict[Process, float] = field(default_factory=dict)

    def touch(self, now: float, by: Process | None) -> None:
        self.changed = now
        if by is not None:
            self.touched[by] = now


@dataclass
class Play:
    """A folder, the processes, and a clock; after each moment what is finished is sent.
    ``followed``: who has started what ends has more to do."""

    now: float = 0.0
    files: dict[str, Saved] = field(default_factory=dict)
    alive: set[Process] = field(default_factory=set)
    sent: list[tuple[str, str]] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    ends: dict[Process, float] = field(default_factory=dict)
    followed: bool = False
    grace: float = GRACE

    def is_alive(self, process: Process) -> bool:
        return process in self.alive

    def is_running(self, pid: int) -> bool:
        return any(process.pid == pid for process in self.alive)

    def ended(self, process: Process) -> float | None:
        return self.ends.get(process)

    def is_followed(self, process: Process) -> bool:
        return self.followed

    def start(self, name: str, pid: int = 100) -> Process:
        process = Process(pid, int(self.now * 100), name)
        self.alive.add(process)
        return process

    def end(self, process: Process) -> None:
        self.alive.discard(process)
        self.ends[process] = self.now
        self.wait(0.01)

    def open(self, name: str, by: Process, *, truncate: bool = True) -> None:
        if name not in self.files:
            self.files[name] = Saved(spare=is_backup(name, self.files, self.left, self.now))
        saved = self.files[name]
        saved.writers += 1
        saved.author = by
        if truncate:
            saved.content = ""
        saved.touch(self.now, by)
        self.wait(0.001)

    def write(self, name: str, text: str) -> None:
        self.files[name].content += text
        self.files[name].touch(self.now, self.files[name].author)
        self.wait(0.001)

    def close(self, name: str) -> None:
        self.files[name].writers -= 1
        self.wait(0.001)

    def save(self, name: str, text: str, by: Process) -> None:
        self.open(name, by)
        self.write(name, text)
        self.close(name)

    def rename(self, old: str, new: str, by: Process | None = None) -> None:
        """By who wrote it, or somebody else."""
        self.left[old] = self.now
        moved = self.files.pop(old)
        moved.spare = is_backup(new, self.files, self.left, self.now)
        moved.touch(self.now, by or moved.author)
        self.files[new] = moved
        self.wait(0.001)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)
        self.left[name] = self.now
        self.wait(0.001)

    def link(self, name: str, target: bytes, by: Process) -> None:
        self.files[name] = Saved(target=target, author=by, changed=self.now)
        self.wait(0.001)

    def touch(self, name: str, by: Process | None = None) -> None:
        """By who wrote it, or somebody else."""
        self.files[name].touch(self.now, by or self.files[name].author)
        self.wait(0.001)

    def wait(self, seconds: float) -> None:
        """Let time pass; look as the daemon would."""
        steps = max(1, round(seconds / 0.05))
        for _ in range(steps):
            self.now += seconds / steps
            for name in list(self.files):
                self._look(name)

    def _look(self, name: str) -> None:
        saved = self.files[name]
        if saved.target:
            return
        draft = Draft(
            name=name,
            size=len(saved.content),
            fresh=saved.content != saved.sent,
            writers=saved.writers,
            author=saved.author,
            changed=saved.changed,
            until=0.0,
            original=original_of(name, self.files, self.left, self.now, spare=saved.spare),
            touched=saved.touched,
        )
        if verdict(draft, self._locks(name), self.now, 1e9 + self.now, self.grace, self) is None:
            saved.sent = saved.content
            self.sent.append((name, saved.content))

    def _locks(self, name: str) -> Iterable[Lock]:
        for lock in lock_names(name):
            if lock in self.files:
                there = self.files[lock]
                head = there.target or there.content.encode("latin-1")
                yield Lock(lock, there.author, head)


def swap_head(pid: int) -> str:
    return "b0VIM 9.0".ljust(24, "\0") + pid.to_bytes(4, "little").decode("latin-1")


def echo(play: Play) -> None:
    shell = play.start("bash")
    play.save("f", "hello", shell)


def append_at_once(play: Play) -> None:
    shell = play.start("bash")
    play.save("f", "one", shell)
    play.open("f", shell, truncate=False)
    play.write("f", "two")
    play.close("f")


def cp_preserving(play: Play) -> None:
    cp = play.start("cp")
    play.save("f", "hello", cp)
    play.touch("f")
    play.end(cp)


def vim_new_file(play: Play) -> None:
    vim = play.start("vim")
    play.save(".f.swp", swap_head(vim.pid), vim)
    play.save("4913", "", vim)
    play.remove("4913")
    play.save("f", "draft", vim)
    play.wait(30)
    play.save("f", "hello", vim)
    play.touch("f")
    play.wait(5)
    play.remove(".f.swp")
    play.end(vim)


def vim_with_backup(play: Play) -> None:
    vim = play.start("vim.basic")
    play.save(".f.swp", swap_head(vim.pid), vim)
    play.save("f", "draft", vim)
    play.wait(3)
    play.rename("f", "f~")
    play.save("f", "hello", vim)
    play.touch("f")
    play.remove("f~")
    play.wait(3)
    play.end(vim)


def vim_killed(play: Play) -> None:
    """The swap file stays, and must not hold the message for ever."""
    vim = play.start("vim")
    play.save(".f.swp", swap_head(vim.pid), vim)
    play.save("f", "hello", vim)
    play.wait(3)
    play.end(vim)


def nano(play: Play) -> None:
    editor = play.start("nano")
    play.save(".f.swp", swap_head(editor.pid), editor)
    play.save("f", "draft", editor)
    play.wait(10)
    play.save("f", "hello", editor)
    play.remove(".f.swp")
    play.end(editor)


def emacs(play: Play) -> None:
    editor = play.start("emacs")
    play.link(".#f", b"me@host.%d:99" % editor.pid, editor)
    play.save("f", "draft", editor)
    play.remove(".#f")
    play.wait(4)
    play.link(".#f", b"me@host.%d:99" % editor.pid, editor)
    play.save("#f#", "half", editor)
    play.rename("f", "f~")
    play.save("f", "hello", editor)
    play.touch("f")
    play.remove("#f#")
    play.remove(".#f")
    play.end(editor)


def joe(play: Play) -> None:
    editor = play.start("joe")
    play.link(".#f", b"me@host.%d" % editor.pid, editor)
    play.save("f", "draft", editor)
    play.save("f~", "draft", editor)
    play.save("f", "hello", editor)
    play.wait(4)
    play.remove(".#f")
    play.end(editor)


def gio(play: Play) -> None:
    """gedit and others: the new file is renamed over the old one before it is closed."""
    editor = play.start("gedit")
    play.save("f", "draft", editor)
    play.wait(0.3)
    play.open(".goutputstream-ABCDEF", editor)
    play.write(".goutputstream-ABCDEF", "hello")
    play.rename(".goutputstream-ABCDEF", "f")
    play.close("f")


def kate(play: Play) -> None:
    editor = play.start("kate")
    play.save(".f.kate-swp", "changes", editor)
    play.save("f", "draft", editor)
    play.wait(5)
    play.save("f", "hello", editor)
    play.remove(".f.kate-swp")


def libreoffice(play: Play) -> None:
    office = play.start("soffice.bin")
    play.save(".~lock.f#", "me,host", office)
    play.open("f", office)
    play.write("f", "draft")
    play.wait(9)
    play.save("lu1234.tmp", "hello", office)
    play.remove("f")
    play.rename("lu1234.tmp", "f")
    play.open("f", office, truncate=False)
    play.wait(9)
    play.close("f")
    play.remove(".~lock.f#")


def vscode(play: Play) -> None:
    editor = play.start("code")
    play.save("f", "", editor)
    play.wait(0.2)
    play.save("f", "hello", editor)


def sed_in_place(play: Play) -> None:
    shell, sed = play.start("bash"), play.start("sed", 101)
    play.save("f", "draft", shell)
    play.wait(0.5)
    play.save("sedAb12Xy", "hello", sed)
    play.rename("sedAb12Xy", "f")


def rsync(play: Play) -> None:
    sync = play.start("rsync")
    play.save(".f.Xy12Ab", "hello", sync)
    play.touch(".f.Xy12Ab")
    play.rename(".f.Xy12Ab", "f")


def browser(play: Play) -> None:
    fox = play.start("firefox")
    play.open("f.part", fox)
    play.write("f.part", "hel")
    play.wait(20)
    play.write("f.part", "lo")
    play.close("f.part")
    play.rename("f.part", "f")


def rsync_delaying(play: Play) -> None:
    """Its scratch folder is no place of drafts: what is in it is not looked at."""
    sync = play.start("rsync")
    play.save(".f.Xy12Ab", "hello", sync)
    play.touch(".f.Xy12Ab")
    hidden = play.files.pop(".f.Xy12Ab")
    play.wait(20)
    play.files["f"] = hidden
    hidden.touch(play.now, sync)
    play.end(sync)


def redirection_of_several(play: Play) -> None:
    """``one > f; two >> f``: programs that a shell starts."""
    for pid, part in enumerate(("he", "l", "lo"), 101):
        play.followed = True
        program = play.start("program", pid)
        play.open("f", program, truncate=False)
        play.wait(5)
        play.write("f", part)
        play.close("f")
        play.end(program)
        play.wait(0.3)
    play.followed = False


def slow_writer(play: Play) -> None:
    writer = play.start("python3")
    play.open("f", writer)
    for part in ("he", "ll", "o"):
        play.write("f", part)
        play.wait(3)
    play.close("f")


SEQUENCES = {
    play.__name__: play
    for play in (
        *(echo, cp_preserving, vim_new_file, vim_with_backup, vim_killed, nano, emacs, joe),
        *(gio, kate, libreoffice, vscode, sed_in_place, rsync, rsync_delaying, browser),
        *(redirection_of_several, slow_writer),
    )
}


@pytest.mark.parametrize("program", SEQUENCES)
def test_one_document_is_one_message(program: str) -> None:
    play = Play()
    SEQUENCES[program](play)
    play.wait(5)
    assert play.sent == [("f", "hello")]


def test_appending_at_once_is_one_message_and_later_is_two() -> None:
    play = Play()
    append_at_once(play)
    play.wait(3)
    assert play.sent == [("f", "onetwo")]
    play.open("f", play.start("bash"), truncate=False)
    play.write("f", "three")
    play.close("f")
    play.wait(3)
    assert play.sent[1:] == [("f", "onetwothree")]


def test_a_file_whose_writer_has_ended_goes_sooner_than_one_whose_writer_lives() -> None:
    play = Play()
    bash, cp = play.start("bash"), play.start("cp", 101)
    play.save("by bash", "hello", bash)
    play.save("by cp", "hello", cp)
    play.wait(0.5)
    assert not play.sent  # it may set its mode and times
    play.end(cp)
    play.wait(0.05)
    assert not play.sent
    play.wait(0.05)
    assert play.sent == [("by cp", "hello")]
    play.wait(0.5)
    assert play.sent[1:] == [("by bash", "hello")]


def test_each_program_that_has_changed_it_has_its_time() -> None:
    play = Play()
    editor, helper = play.start("editor"), play.start("helper", 101)
    play.save("f.tmp", "hello", helper)
    play.end(helper)
    play.rename("f.tmp", "f", editor)
    play.wait(0.9)
    assert not play.sent
    play.wait(0.1)
    assert play.sent == [("f", "hello")]
    play.save("g.tmp", "hello", play.start("editor", 102))
    play.wait(10)
    mv = play.start("mv", 103)
    play.rename("g.tmp", "g", mv)  # the editor has not touched it for long
    play.end(mv)
    play.wait(0.1)
    assert play.sent[1:] == [("g", "hello")]


def test_the_whole_grace_has_to_pass_when_nobody_knows_who_has_changed_it() -> None:
    play = Play()
    cp = play.start("cp")
    play.save("f", "hello", cp)
    play.files["f"].changed = play.now
    play.end(cp)
    play.wait(0.9)
    assert not play.sent
    play.wait(0.1)
    assert play.sent == [("f", "hello")]


def test_what_a_shell_has_yet_to_do_holds_a_file_for_the_grace_and_no_longer() -> None:
    play = Play(followed=True)
    cp = play.start("cp")
    play.save("f", "hello", cp)
    play.end(cp)
    play.wait(0.5)
    assert not play.sent
    play.followed = False
    play.wait(0.05)
    assert play.sent == [("f", "hello")]
    play.followed = True
    cp = play.start("cp", 101)
    play.save("g", "hello", cp)
    play.end(cp)
    play.wait(0.9)
    assert not play.sent[1:]
    play.wait(0.1)
    assert play.sent[1:] == [("g", "hello")]


@pytest.mark.parametrize("grace", [0.0, 0.05, 1.5, 60.0])
def test_a_grace_that_is_longer_than_the_default_or_very_short_is_the_same_for_all(
    grace: float,
) -> None:
    play = Play(grace=grace)
    cp = play.start("cp")
    play.save("f", "hello", cp)
    play.end(cp)
    play.wait(grace * 0.9 - 0.012)
    assert not play.sent or grace == 0
    play.wait(grace * 0.1 + 0.012)
    assert play.sent == [("f", "hello")]


def test_what_was_sent_is_not_sent_again_under_another_name() -> None:
    play = Play()
    echo(play)
    play.wait(2)
    play.rename("f", "g")
    play.wait(5)
    assert play.sent == [("f", "hello")]


def test_a_date_in_the_future_holds_it() -> None:
    draft = Draft("f", 1, True, 0, None, 0.0, 500.0)
    play = Play()
    held = verdict(draft, (), 10.0, 400.0, GRACE, play)
    assert held is not None
    assert held.why == "held until 1970-01-01 00:08:20 UTC"
    assert held.again is not None
    assert verdict(draft, (), 10.0, 500.0, GRACE, play) is None
    assert verdict(replace(draft, until=0.0), (), 10.0, 0.0, 0.0, play) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".f",
            "f~",
            "f.~2~",
            "#f#",
            "~$f.docx",
            "F.BAK",
            "F.Part",
            ".DS_Store",
            "Thumbs.db",
            "f.tmp",
            "f.temp",
            "f.part",
            "f.partial",
        ),
        *("f.crdownload", "f.download", "f.lock", "f.swp", "f.swo", "f.swx", "f.bak", "f.orig"),
        *("f.rej", "f.save", "DEADJOE", "sedAb12Xy", "XXab12Cd", "tmpab12cd", "lu123abc.tmp"),
        *("4913", "12345", "f.~2~", "F.BAK", "F.Part", ".DS_Store", "Thumbs.db"),
    ],
)
def test_scratch_names(name: str) -> None:
    assert is_scratch(name)


@pytest.mark.parametrize(
    "name", ["f", "photo.jpg", "sedan", "XXL", "tmp", "template", "123", "123456", "a.lock.txt"]
)
def test_names_of_documents(name: str) -> None:
    assert not is_scratch(name)


def folder(name: str, *inside: tuple[Draft, list[Lock]], play: Play, **changes: Any) -> str:
    """What holds a folder of these files, at 10 s."""
    draft = replace(Draft(name, len(inside), True, 0, None, 0.0, 0.0), **changes)
    held = folder_verdict(draft, inside, 10.0, 400.0, GRACE, play)
    return held.why if held else ""


def test_a_folder_waits_for_all_that_is_in_it() -> None:
    play = Play()
    vim = play.start("vim")
    good = Draft("f", 0, True, 0, None, 0.0, 1e9), list[Lock]()  # of any date, and empty
    scratch = Draft(".hidden~", 1, False, 0, None, 10.0, 0.0), list[Lock]()
    assert folder("photos", good, scratch, play=play) == ""
    assert "empty" in folder("photos", play=play)
    assert "just changed" in folder("photos", good, play=play, changed=9.5)
    assert "held until" in folder("photos", good, play=play, until=500.0)
    assert "has been sent" in folder("photos", good, play=play, fresh=False)
    written = Draft("g", 1, True, 1, None, 0.0, 0.0), list[Lock]()
    assert folder("photos", good, written, play=play) == "g in it: it is open for writing"
    edited = Draft("g", 1, True, 0, vim, 0.0, 0.0), list[Lock]()
    assert folder("photos", edited, play=play) == "g in it: vim has it open"
    locked = Draft("g", 1, True, 0, None, 0.0, 0.0), [Lock(".g.swp", vim, b"")]
    assert folder("photos", locked, play=play) == "g in it: an editor holds .g.swp"
    play.end(vim)
    assert folder("photos", edited, locked, play=play) == ""


@pytest.mark.parametrize("name", [".f", "f~", "f.tmp", "f.part", "metadata.toml", "f.error"])
def test_folders_that_are_no_message_yet(name: str) -> None:
    good = Draft("f", 1, True, 0, None, 0.0, 0.0), list[Lock]()
    assert "scratch" in folder(name, good, play=Play())


@pytest.mark.parametrize("name", ["2024", "12345", "XXab12Cd", "tmpab12cd", "a.orig", "old.save"])
def test_names_of_folders(name: str) -> None:
    good = Draft("f", 1, True, 0, None, 0.0, 0.0), list[Lock]()
    assert folder(name, good, play=Play()) == ""


@given(st.text(max_size=40), st.binary(max_size=64))
def test_any_name_and_any_lock_give_a_verdict(name: str, head: bytes) -> None:
    play = Play()
    draft = Draft(name, 1, True, 0, None, 0.0, 0.0)
    locks = [Lock(lock, None, head) for lock in lock_names(name)]
    verdict(draft, locks, 10.0, 10.0, GRACE, play)
