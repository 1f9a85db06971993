"""``cbfs host``, ``cbfs invite`` and ``cbfs init LINE``: from nothing to two people who know each
other, and what becomes of a line that is wrong, or used, or of which the use is cut off."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.commands import init
from cbfs.commands.home import beginning, joining
from cbfs.commands.home.beginning import add_init
from cbfs.commands.home.joining import Joining
from cbfs.commands.init import asked_for, begin_account
from cbfs.commands.process.entry import cbfs
from cbfs.names.lookups import DirectoryDown
from cbfs.network import drop
from cbfs.network.dial import LoopbackDialer
from cbfs.network.drop import LineSpent, at_drop
from cbfs.network.link import Link
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.limits import INVITE_LINE_MAX
from cbfs_common.wire.lines import parse_line
from tests.support.children import run_cbfs
from tests.support.host import RunningHost, init_by
from tests.support.killing import Kill, every_point
from tests.support.world import ENVIRONMENT, WAIT, program, run


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    running = RunningHost(tmp_path_factory.mktemp("of") / "host", "--no-tor")
    yield running
    assert running.end() == 0, running.log.read_text()


def test_one_line_and_a_name_make_an_account(host: RunningHost, tmp_path: Path) -> None:
    line = host.invite()
    assert len(line) <= INVITE_LINE_MAX
    done = init_by(line, tmp_path / "dora", "dora\n")
    assert done.returncode == 0, done.stderr
    assert f"dora is ready. Mount it: mount.cbfs {tmp_path / 'dora'} MOUNTPOINT" in done.stdout


def test_a_line_for_a_name_asks_for_nothing(host: RunningHost, tmp_path: Path) -> None:
    done = init_by(host.invite("eve"), tmp_path / "eve")
    assert done.returncode == 0, done.stderr
    with opened_store(tmp_path / "eve", SYSTEM_RANDOM) as store:
        account = load_account(store)
        with store.read() as reader:
            assert reader.get(Table.META, Meta.LINE) is None
    assert account
    assert account.name == "eve"


def test_a_line_is_read_from_standard_input_and_given_to_nobody(
    host: RunningHost, tmp_path: Path
) -> None:
    done = init_by("-", tmp_path / "rita", f"{host.invite()}\nrita\n")
    assert done.returncode == 0, done.stderr
    assert "rita is ready" in done.stdout
    done = init_by("-", tmp_path / "sybil", f"{host.invite('sybil')}\n")
    assert done.returncode == 0, done.stderr
    for wrong in ("", "no-line\nsam\n", "cbfs-line:" + "a" * 300):
        done = init_by("-", tmp_path / "nobody", wrong)
        assert done.returncode == 1
        assert ("no line that invites" if "line:" not in wrong else "mistyped") in done.stderr
        assert not (tmp_path / "nobody").exists()


def test_a_line_is_an_answer_to_what_ones_name_is(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = host.invite("trent")
    answers = iter((f"{line}x", line))
    monkeypatch.setattr(beginning, "_can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _asked: next(answers))
    parser = argparse.ArgumentParser()
    add_init(parser)
    options = parser.parse_args(["--account", str(tmp_path / "trent"), "--no-tor"])
    assert options.run(options) == 0
    with opened_store(tmp_path / "trent", SYSTEM_RANDOM) as store:
        assert load_account(store)


def test_a_name_that_is_taken_is_asked_for_again(host: RunningHost, tmp_path: Path) -> None:
    assert init_by(host.invite(), tmp_path / "one", "frank\n").returncode == 0
    done = init_by(host.invite(), tmp_path / "other", "frank\nfrank2\n")
    assert done.returncode == 0, done.stderr
    assert "the name is taken" in done.stdout
    assert "frank2 is ready" in done.stdout


def test_a_line_that_is_used_is_told_before_anything_is_made(
    host: RunningHost, tmp_path: Path
) -> None:
    line = host.invite()
    assert init_by(line, tmp_path / "first", "grace\n").returncode == 0
    done = init_by(line, tmp_path / "second", "mallory\n")
    assert done.returncode == 1
    assert "it was used" in done.stderr
    assert not (tmp_path / "second").exists()


def test_a_mistyped_line_is_told_before_anything_is_made(host: RunningHost, tmp_path: Path) -> None:
    line = host.invite()
    for wrong in (line[:-1], line[:30] + ("a" if line[30] != "a" else "b") + line[31:]):
        done = init_by(wrong, tmp_path / "nobody", "heidi\n")
        assert done.returncode == 1
        assert "mistyped" in done.stderr
        assert line[15:40] not in done.stderr
        assert not (tmp_path / "nobody").exists()


def test_two_who_use_one_line_at_once_do_not_both_get_in(host: RunningHost, tmp_path: Path) -> None:
    line = host.invite()
    both = [
        subprocess.Popen(
            program("cbfs", "init", line, tmp_path / name, "--no-tor"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for name in ("ivan", "judy")
    ]
    said = [
        each.communicate(f"{name}\n", WAIT)[1]
        for each, name in zip(both, ("ivan", "judy"), strict=True)
    ]
    assert sorted(each.returncode for each in both) == [0, 1], said
    (gone,) = (tmp_path / n for n, p in zip(("ivan", "judy"), both, strict=True) if p.returncode)
    assert not gone.exists()


def begin_by(line: str, place: Path) -> int:
    """``cbfs init LINE`` in this process."""
    parser = argparse.ArgumentParser()
    add_init(parser)
    options = parser.parse_args([line, str(place), "--no-tor"])
    return int(options.run(options))


async def _spent(*_arguments: Any) -> None:
    raise LineSpent("this line was used already", "ask for another")


@pytest.mark.parametrize("asked", [True, False])
def test_keys_of_a_name_that_may_be_registered_are_kept(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, asked: bool
) -> None:
    """Of a line that somebody else has used nothing is left, unless the name was asked for."""

    async def begin(store: Store, *more: Any) -> Account:
        account = await begin_account(store, *more)
        if asked:
            await store.commit(asked_for)
        return account

    monkeypatch.setattr(beginning, "begin_account", begin)
    monkeypatch.setattr(joining, "claim", _spent)
    with pytest.raises(LineSpent):
        begin_by(host.invite(f"lara-{asked}".lower()), tmp_path / "lara")
    assert (tmp_path / "lara" / "root.key").exists() == asked


def test_an_account_is_finished_whatever_is_wrong_with_who_has_invited(
    host: RunningHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what was cut off when the directory did not answer is done with the same line."""
    assert init_by(host.invite("olga"), tmp_path / "olga").returncode == 0
    line = host.invite("pete", account=tmp_path / "olga")

    async def down(*_arguments: Any) -> bool:
        raise DirectoryDown("the directory does not answer")

    async def lies(*_arguments: Any) -> bool:
        raise CbfsError("the name olga has ended")

    monkeypatch.setattr(Joining, "_learn", down)
    with pytest.raises(DirectoryDown):
        begin_by(line, tmp_path / "pete")
    monkeypatch.setattr(Joining, "_learn", lies)
    assert begin_by(line, tmp_path / "pete") == 0
    assert "olga, who has invited you, is no contact of yours yet" in capsys.readouterr().err
    with opened_store(tmp_path / "pete", SYSTEM_RANDOM) as store, store.read() as reader:
        assert reader.get(Table.META, Meta.OWN) is not None
        assert reader.get(Table.META, Meta.LINE) is None


@pytest.mark.parametrize("kept", [True, False])
def test_who_was_cut_off_finishes_when_the_line_is_too_old(
    host: RunningHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    kept: bool,
) -> None:
    """Once it has been used: by the record in the store, when nothing lies at the server any more;
    or by what lies there, when the end came before that was in the store."""
    inviter, name = tmp_path / "quentin", f"rob-{kept}".lower()
    assert init_by(host.invite("quentin" if kept else "quincy"), inviter).returncode == 0
    text = host.invite(name, account=inviter)
    line = parse_line(text)

    async def cut(*_arguments: Any, **_more: Any) -> None:
        raise CbfsError("it was cut off")

    if kept:
        monkeypatch.setattr(init, "sign_up", cut)
    else:
        monkeypatch.setattr(joining, "claim", _then(drop.claim, cut))
    with pytest.raises(CbfsError, match="cut off"):
        begin_by(text, tmp_path / "rob")
    monkeypatch.undo()
    if kept:

        async def forget() -> None:
            async with at_drop(LoopbackDialer(), line, SYSTEM_RANDOM) as link:
                await drop.forget(link)

        trio.run(forget)
    else:
        later = time.time() + 8 * 86_400
        monkeypatch.setattr(joining, "time", SimpleNamespace(time=lambda: later))
    assert begin_by(text, tmp_path / "rob") == 0
    said = capsys.readouterr().err
    assert ("nothing lies at the server any more" in said) == kept
    with opened_store(tmp_path / "rob", SYSTEM_RANDOM) as store, store.read() as reader:
        assert reader.get(Table.META, Meta.OWN) is not None
        assert reader.get(Table.META, Meta.LINE) is None


def _then(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    async def both(*arguments: Any) -> None:
        await first(*arguments)
        await second()

    return both


def test_an_account_that_was_made_meanwhile_is_not_removed(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = host.invite("nina")

    async def look(*_arguments: Any) -> None:
        assert init_by(line, tmp_path / "nina").returncode == 0
        await _spent()

    monkeypatch.setattr(beginning, "looked", look)
    with pytest.raises(LineSpent):
        begin_by(line, tmp_path / "nina")
    with opened_store(tmp_path / "nina", SYSTEM_RANDOM) as store:
        assert load_account(store)


def test_a_line_takes_one_account_at_the_server_until_it_is_used(tmp_path: Path) -> None:
    """What anybody can fill a server with by lines is what they can fill it with by accounts."""
    running = RunningHost(tmp_path / "host", "--no-tor")

    def accounts() -> int:
        words = ("admin", tmp_path / "host" / "server", "status", "--json")
        return int(json.loads(run("cbfs-server", *words).stdout)["accounts"])

    try:
        assert accounts() == 0
        line = running.invite("leo")
        assert accounts() == 1
        assert init_by(line, tmp_path / "leo").returncode == 0
        assert accounts() == 1
    finally:
        assert running.end() == 0


def test_a_host_that_is_killed_comes_back_as_it_was(tmp_path: Path) -> None:
    first = RunningHost(tmp_path / "host", "--no-tor")
    line = first.invite("kate")
    first.end(signal.SIGKILL)
    again = RunningHost(tmp_path / "host")
    try:
        assert again.said == first.said, again.log.read_text()
        assert init_by(line, tmp_path / "kate").returncode == 0
    finally:
        assert again.end() == 0


def test_what_was_chosen_for_a_host_stays(host: RunningHost, tmp_path: Path) -> None:
    refused = run("cbfs", "host", host.place, "--no-tor")
    assert refused.returncode == 1
    assert "another cbfs host uses" in refused.stderr
    other = RunningHost(tmp_path / "host", "--no-tor")
    assert other.end() == 0
    for words in (("--no-tor", "--listen", "127.0.0.1:1"),):
        refused = run("cbfs", "host", tmp_path / "host", *words)
        assert refused.returncode == 1
        assert "says otherwise" in refused.stderr


def test_a_host_that_does_not_run_invites_nobody(tmp_path: Path) -> None:
    other = RunningHost(tmp_path / "host", "--no-tor")
    assert other.end() == 0
    for place, why in ((tmp_path / "host", "does not run"), (tmp_path / "none", "no host in")):
        done = run("cbfs", "invite", "--host", place, "--account", tmp_path / "nobody")
        assert done.returncode == 1
        assert why in done.stderr


def test_the_step_to_several_organisations_is_explained() -> None:
    done = run("cbfs", "host", "--org")
    assert done.returncode == 0
    assert "cbfs-names --sequencer" in done.stdout


def _around(kill: Kill, function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(*arguments: Any, **more: Any) -> Any:
        kill.point()
        result = await function(*arguments, **more)
        kill.point()
        return result

    return wrapped


def _killed(directory: Path, number: int) -> int:
    """In a child: an account by a line, killed at one of the moments around each request to a
    server and each change of the store."""
    place = directory.parent / "host"
    done = run("cbfs", "invite", f"kill-{number}", "--host", place, "--account", directory / "none")
    (directory / "line").write_text(done.stdout.strip())
    kill = Kill(number)
    Link.call_in_order = _around(kill, Link.call_in_order)  # type: ignore[method-assign]
    Store.commit = _around(kill, Store.commit)  # type: ignore[method-assign]
    sys.argv = ["cbfs", "init", done.stdout.strip(), str(directory / "account"), "--no-tor"]
    os.dup2(os.open(directory / "said", os.O_WRONLY | os.O_CREAT, 0o600), 2)
    os.dup2(2, 1)
    return cbfs()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_init_that_is_killed_is_finished_with_the_same_line(tmp_path: Path) -> None:
    running = RunningHost(tmp_path / "host", "--no-tor")
    try:
        for directory in every_point(_killed, tmp_path, 7):
            line = (directory / "line").read_text()
            assert parse_line(line)
            words = ["init", line, str(directory / "account"), "--no-tor"]
            said = directory / "again"
            code = run_cbfs(words, ENVIRONMENT, said)
            if code and (directory / "account" / "root.key").exists():
                assert "holds the account of" in said.read_text(), said.read_text()
            else:
                assert code == 0, said.read_text()
    finally:
        assert running.end() == 0
