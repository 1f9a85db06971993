"""``cbfs setup`` in homes and installations that are made up; ``./run test package`` has real
ones."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs.commands.machine import setup
from cbfs.commands.machine.placed import (
    Placed,
    PlacedKind,
    RecordError,
    found,
    read_record,
    write_record,
)
from cbfs.commands.machine.setup import Placing, placing, removal
from cbfs.commands.machine.wanted import Places, wanted
from cbfs_common.errors import CbfsError
from cbfs_host.files import write_beside_others

ROOT = Path(__file__).parents[2]
PAGE = next(ROOT.glob("man/*fs.1")).name


def tree(place: Path) -> dict[str, str]:
    """All below a folder: contents, targets of links, or nothing for folders."""
    return {
        str(path.relative_to(place)): str(path.readlink()) if path.is_symlink()
        else "" if path.is_dir() else path.read_text()
        for path in sorted(place.rglob("*"))
    }  # fmt: skip


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """The files of a wheel, and an empty home; links are made with one's own rights."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    share, home = tmp_path / "venv" / "share", tmp_path / "home"
    for source, target in (
        *(("man/*.1", "man/man1"), ("man/*.8", "man/man8")),
        *(("completions/bash/*", "bash-completion/completions"), ("systemd/*", "cbfs/systemd")),
        *(("completions/zsh/*", "zsh/site-functions"),),
        *(("completions/fish/*", "fish/vendor_completions.d"),),
    ):
        (share / target).mkdir(parents=True)
        for path in ROOT.glob(source):
            shutil.copy(path, share / target)
    (share / "man/man1/segno.1").write_text("of a library")
    for folder in (home, tmp_path / "sbin"):
        folder.mkdir()
    yield Places(
        scripts=tmp_path / "venv" / "bin",
        share=share,
        home=home,
        data=home / ".local/share",
        config=home / ".config",
        record=home / ".local/state/cbfs/setup",
        link=tmp_path / "sbin" / "mount.cbfs",
    )


def put(where: Places) -> Placing:
    plan = placing(where)
    assert plan.carry_out(where)
    return plan


def undo(where: Places) -> None:
    assert removal(where).carry_out(where)


def test_all_is_put_in_its_place_and_taken_away_again(where: Places) -> None:
    plan = put(where)
    names = tree(where.home)
    for path in (
        *(".local/share/man/man1/cbfs.1", ".local/share/man/man8/mount.cbfs.8"),
        *(".local/share/bash-completion/completions/cbfs", ".config/systemd/user/cbfs@.service"),
        *(".local/share/zsh/site-functions/_cbfs", ".config/fish/completions/cbfs.fish"),
        ".config/systemd/user/cbfs-host.service",
    ):
        assert names[path]
    assert not [name for name in names if "segno" in name or "cbfs-names-" in name]
    assert where.link.readlink() == where.mount_program
    told = "\n".join(plan.lines(where.home))
    assert "5 manual pages" not in told
    for shown in ("2 manual pages in ~/.local/share/man/man1: cbfs-sendmail.1, cbfs.1", "as root"):
        assert shown in told
    undo(where)
    assert tree(where.home) == {}
    assert not where.link.is_symlink()


def test_units_start_the_programs_of_this_installation(where: Places) -> None:
    put(where)
    unit = (where.config / "systemd/user/cbfs@.service").read_text()
    assert f'\nExecStart="{where.scripts}/mount.cbfs" --foreground %h/%I\n' in unit


def test_a_second_time_there_is_nothing_to_do(where: Places) -> None:
    put(where)
    before = tree(where.home)
    again = placing(where)
    assert not again.does_something
    assert list(again.lines(where.home)) == []
    undo(where)
    assert not removal(where).does_something
    put(where)
    assert tree(where.home) == before


def test_files_of_others_stay(where: Places) -> None:
    page = where.home / ".local/share/man/man1/cbfs.1"
    page.parent.mkdir(parents=True)
    page.write_text("of somebody else")
    where.link.symlink_to("elsewhere")
    before = tree(where.home)
    plan = put(where)
    assert set(plan.kept) == {page, where.link}
    assert "~/.local/share/man/man1/cbfs.1" in "\n".join(plan.lines(where.home))
    assert page.read_text() == "of somebody else"
    undo(where)
    assert tree(where.home) == before
    assert where.link.readlink() == Path("elsewhere")


def test_what_is_the_same_already_stays_whosever_it_is(where: Places) -> None:
    """pipx links manual pages, for instance."""
    page = where.home / ".local/share/man/man1/cbfs.1"
    page.parent.mkdir(parents=True)
    page.symlink_to(where.share / "man/man1/cbfs.1")
    before = tree(where.home)
    plan = put(where)
    assert not plan.kept
    undo(where)
    assert tree(where.home) == before


def test_what_was_changed_by_hand_stays(where: Places) -> None:
    put(where)
    unit = where.config / "systemd/user/cbfs@.service"
    unit.write_text("changed")
    beside = where.config / "fish/completions/mine.fish"
    beside.write_text("mine")
    (where.config / "fish/completions/cbfs.fish").unlink()
    assert placing(where).kept == (unit,)
    assert removal(where).kept == (unit,)
    undo(where)
    files = {name: text for name, text in tree(where.home).items() if text}
    assert files == {
        ".config/systemd/user/cbfs@.service": "changed",
        ".config/fish/completions/mine.fish": "mine",
    }


def test_a_newer_version_replaces_its_own_files(where: Places) -> None:
    put(where)
    (where.share / "man/man1/cbfs.1").write_text("newer")
    plan = put(where)
    assert [each.path.name for each in plan.files] == [PAGE]
    assert (where.home / ".local/share/man/man1/cbfs.1").read_text() == "newer"
    undo(where)
    assert tree(where.home) == {}


def test_what_was_interrupted_is_taken_away(where: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a file of an older version is replaced."""
    put(where)
    for name in (PAGE, "cbfs-sendmail.1"):
        (where.share / "man/man1" / name).write_text("newer")
    written = write_beside_others

    def full(path: Path, data: bytes, mode: int) -> None:
        if path.name == PAGE:
            raise OSError(28, "No space left on device", str(path))
        written(path, data, mode)

    monkeypatch.setattr(setup, "write_beside_others", full)
    with pytest.raises(OSError, match="space"):
        placing(where).carry_out(where)
    undo(where)
    assert tree(where.home) == {}


def test_the_link_can_be_left_out_and_left_alone(where: Places) -> None:
    plan = placing(where).without_link()
    assert plan.carry_out(where)
    assert not where.link.is_symlink()
    put(where)
    assert removal(where).without_link().carry_out(where)
    assert where.link.is_symlink()
    assert read_record(where.record)
    undo(where)
    assert tree(where.home) == {}
    assert not where.link.is_symlink()


def test_its_own_link_leads_to_where_the_program_is_now(where: Places, tmp_path: Path) -> None:
    put(where)
    assert where.link.readlink() == where.mount_program
    moved = replace(where, scripts=tmp_path / "moved")
    plan = put(moved)
    assert plan.kept == ()
    assert where.link.readlink() == moved.mount_program
    where.link.unlink()
    where.link.symlink_to("/somebody/elses")
    plan = placing(where)
    assert plan.kept == (where.link,)
    assert plan.target is None


def test_a_link_that_cannot_be_made_is_not_remembered(where: Places) -> None:
    where.link.parent.rmdir()
    assert not placing(where).carry_out(where)
    assert where.link not in {each.path for each in read_record(where.record)}


def test_what_a_package_has_installed_needs_no_setup(where: Places) -> None:
    shutil.rmtree(where.share)
    with pytest.raises(CbfsError, match="no manual pages") as raised:
        wanted(where)
    assert "package" in raised.value.hint


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state" / "setup"
    things = {
        Placed.file(Path("/a b/c"), b"text"),
        Placed.link(Path("/sbin/x"), Path("/y")),
        Placed(Path("/a b"), PlacedKind.FOLDER),
    }
    write_record(path, things)
    assert read_record(path) == things
    write_record(path, ())
    assert not path.exists()
    assert read_record(path) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cbfs setup 1",
        "cbfs setup 2\n",
        "cbfs setup 1\nfile /x\n",
        f"cbfs setup 1\nfile {'0' * 64} x\n",
        f"cbfs setup 1\nfile {'0' * 63}g /x\n",
        f"cbfs setup 1\nfolder {'0' * 64} /x\n",
        "cbfs setup 1\n\n",
        "cbfs setup 1\nfolder /x",
    ],
)
def test_other_records_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "setup"
    path.write_text(text)
    with pytest.raises(RecordError) as raised:
        read_record(path)
    assert raised.value.hint


def test_nothing_but_files_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path / "pipe") == Placed(tmp_path / "pipe", PlacedKind.FOLDER)


def test_nobody_is_asked_where_there_is_no_terminal(
    where: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "places", lambda: where)
    options = argparse.Namespace(undo=False, yes=False, no_link=False)
    with pytest.raises(CbfsError, match="nobody") as raised:
        setup._setup(options)
    assert "--yes" in raised.value.hint
    assert tree(where.home) == {}


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), (" YES ", True), ("", False)])
def test_it_says_what_it_will_do_and_asks(
    where: Places,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    agreed: bool,
) -> None:
    monkeypatch.setattr(setup, "places", lambda: where)
    for stream in sys.stdin, sys.stdout:
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    for undone in False, True:
        before = tree(where.home)
        options = argparse.Namespace(undo=undone, yes=False, no_link=False)
        assert setup._setup(options) == (0 if agreed or (undone and not before) else 1)
        assert (tree(where.home) != before) == agreed
        told = capsys.readouterr().out
        assert ("man/man1" in told) == (agreed or not undone)


def test_the_command_says_what_it_does(tmp_path: Path) -> None:
    """In an installation without files, as that of the tests."""
    done = subprocess.run(
        [sys.executable, "-m", "cbfs.commands.main", "setup", "--undo", "--yes"],
        env={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "cbfs: there is nothing to do\n"
