"""``cbfs move``: what goes along, whom it tells no, and what is left when it does not come to its
end."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, load_account, no_lock, opened_store, reading_store
from cbfs.account.claim import CopyState, Marker, read_standing, write_standing
from cbfs.account.leaving import COPY_SIZE, Leaving, LeavingStage, read_leaving, write_leaving
from cbfs.account.passphrase import Guard, by_passphrase
from cbfs.account.spool import Spool
from cbfs.commands.home.moving import meeting, program
from cbfs.commands.home.moving.cargo import AccountDeparture
from cbfs.commands.home.moving.held import IncomingCopy
from cbfs.commands.main import command_line
from cbfs.receiving.copies import notice_copy
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError
from cbfs_common.limits import LINE_SECRET_SIZE
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.wire.move_line import MoveLine, parse_move_line
from cbfs_common.wire.transport import ClientConnection, Frame
from cbfs_host.files import take_lock
from tests.project.test_questions import Terminal
from tests.support.children import run_cbfs
from tests.support.moved import FILES, STAYS, Meeting, bare_account, lives_here
from tests.support.moving import Beside

LEAVING = Leaving(LeavingStage.OFFERED, b"s" * LINE_SECRET_SIZE, b"t" * KEY_SIZE)


class Pair:
    """An old and a new computer, each a directory of ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.old = bare_account(place / "old")
        self.new = place / "new"

    def leave(self, *words: str) -> Beside:
        return Beside(["--account", str(self.old), *words], "", self.place / "old.said")

    def come(self, line: str, *words: str) -> Beside:
        said = self.place / "new.said"
        return Beside(["-", "--account", str(self.new), *words], line, said)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def stage(account: Path) -> LeavingStage | None:
    with reading_store(account, SYSTEM_RANDOM) as store, store.read() as reader:
        leaving = read_leaving(reader)
    return leaving.stage if leaving else None


def test_all_goes_along_that_is_the_accounts_and_nothing_else(pair: Pair) -> None:
    for name in STAYS:
        (pair.old / name).parent.mkdir(parents=True, exist_ok=True)
        (pair.old / name).write_bytes(b"of this computer")
    (pair.old / "spool" / "link.mail").symlink_to("/etc/passwd")
    before = Spool(pair.old)
    waiting = before.waiting()
    old = pair.leave()
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0, old.said()
    for name in FILES:
        assert (pair.new / name).read_bytes() == name.encode()
        assert (pair.new / name).stat().st_mode & 0o777 == 0o600
    for name in STAYS:
        path = pair.new / name
        assert not path.exists() or path.read_bytes() != b"of this computer"
    assert Spool(pair.new).waiting() == waiting
    assert not (pair.new / "spool" / "link.mail").exists()
    assert pair.new.stat().st_mode & 0o777 == 0o700
    with opened_store(pair.new, SYSTEM_RANDOM) as store, store.read() as reader:
        assert reader.get(Table.PEERS, b"7") == b"value" * 200
        assert reader.get(Table.META, Meta.LEAVING) is None
    assert Spool(pair.old).public() == b""  # no program leaves anything there any more


def test_a_wrong_secret_gets_nothing_and_the_right_one_still_does(pair: Pair) -> None:
    old = pair.leave()
    line = parse_move_line(old.line())
    wrong = MoveLine(bytes(LINE_SECRET_SIZE), line.host, line.port)
    new = pair.come(wrong.text())
    assert new.wait() == 1
    assert "does not know this line" in new.said()
    assert not pair.new.exists()
    assert stage(pair.old) is LeavingStage.OFFERED
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0


def test_a_mistyped_line_is_told_before_anybody_is_asked(pair: Pair) -> None:
    text = MoveLine(b"s" * LINE_SECRET_SIZE, "127.0.0.1", 9).text()
    new = pair.come(text[:-1] + ("a" if text[-1] != "a" else "b"))
    assert new.wait() == 1
    assert "mistyped" in new.said()
    assert not pair.new.exists()


class Knocking:
    """Somebody who knows where the old computer waits, and not the secret."""

    def __init__(self, line: MoveLine) -> None:
        self.line = line

    def connect(self) -> socket.socket:
        return socket.create_connection((self.line.host, self.line.port), timeout=60)

    def say(self, data: bytes) -> bytes:
        """What comes of it until the connection ends."""
        with self.connect() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while more := sock.recv(65_536):
                got += more
        return got


def test_who_connects_without_the_line_again_and_again_ends_the_waiting(pair: Pair) -> None:
    old = pair.leave()
    knocking = Knocking(parse_move_line(old.line()))
    for _ in range(meeting.WRONG_MAX + 1):
        assert not knocking.say(b"x" * 20_000)
    assert old.wait() == 1
    assert "again and again" in old.said()
    assert lives_here(pair.old)


def test_who_knows_the_keys_of_the_old_computer_only_is_told_nothing(pair: Pair) -> None:
    old = pair.leave()
    line = parse_move_line(old.line())
    stranger = ClientConnection(line.old.key, SYSTEM_RANDOM.token(KEY_SIZE), SYSTEM_RANDOM)
    with Knocking(line).connect() as sock:
        sock.sendall(stranger.start())
        answer = b""
        while not (proof := stranger.data_to_send()):
            answer = sock.recv(65_536)
            assert not [each for each in stranger.receive(answer) if hasattr(each, "payload")]
        sock.sendall(proof)
        assert sock.recv(65_536) == b""
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0


def test_who_connects_without_the_line_ends_nothing_that_goes_on(pair: Pair) -> None:
    old = pair.leave()
    line = parse_move_line(old.line())
    knocking = Knocking(line)
    known = ClientConnection(line.old.key, line.new, SYSTEM_RANDOM)
    with knocking.connect() as sock:
        sock.sendall(known.start())
        heard: list[object] = []
        while not [each for each in heard if isinstance(each, Frame)]:  # the offer
            heard += known.receive(sock.recv(65_536))
            sock.sendall(known.data_to_send())
        for _ in range(meeting.WRONG_MAX + 1):
            assert not knocking.say(b"x" * 20_000)
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0


def test_connections_that_say_nothing_keep_nobody_out_for_long(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "PROOF_TIMEOUT", 0.2)
    line = MoveLine(b"s" * LINE_SECRET_SIZE, "127.0.0.1", 1)

    async def crowd() -> int:
        with opened_store(pair.old, SYSTEM_RANDOM) as store:
            departure = AccountDeparture(pair.old, store, LEAVING)
            waiting = meeting.OldComputer(line, departure, lambda *_: None, lambda _: None)
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting.until_moved, listener)
                silent = [
                    await trio.open_tcp_stream(*listener.socket.getsockname())
                    for _ in range(meeting.PROVING_MAX)
                ]
                one_more = await trio.open_tcp_stream(*listener.socket.getsockname())
                assert await one_more.receive_some(1) == b""
                for each in silent:
                    assert await each.receive_some(1) == b""
                    await each.aclose()
                await one_more.aclose()
                nursery.cancel_scope.cancel()
        return len(silent)

    assert trio.run(crowd) == meeting.PROVING_MAX


def test_a_move_that_is_cancelled_leaves_the_account_where_it_was(pair: Pair) -> None:
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        held = IncomingCopy(pair.new, no_lock)
        pair.new.mkdir()
        store.write(lambda writer: write_leaving(writer, LEAVING))
        cut = Meeting(AccountDeparture(pair.old, store, LEAVING), held)
        while not held.is_whole:
            assert cut.step_old() or cut.step_new()
    cancelled = pair.leave("--cancel")
    assert cancelled.wait() == 0, cancelled.said()
    assert stage(pair.old) is None
    assert lives_here(pair.old)
    assert not lives_here(pair.new)
    old = pair.leave()
    new = pair.come(old.line())
    assert new.wait() == 1
    assert "by another line" in new.said()
    shutil.rmtree(pair.new / "arriving")
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0
    cancelled = pair.leave("--cancel")
    assert cancelled.wait() == 1
    assert "has moved to another computer" in cancelled.said()
    assert not lives_here(pair.old)


def test_what_has_moved_can_be_claimed_back_when_it_is_lost(pair: Pair) -> None:
    moved = LEAVING.moved(b"c" * COPY_SIZE, b"d" * KEY_SIZE)
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        store.write(lambda writer: write_leaving(writer, moved))
    assert not lives_here(pair.old)
    erased = pair.leave("--erase")
    assert erased.wait() == 1
    assert "is not known here" in erased.said()
    said = pair.place / "claimed"
    assert run_cbfs(["claim", "--account", str(pair.old)], dict(os.environ), said) == 0
    assert lives_here(pair.old)
    assert stage(pair.old) is None


def test_an_account_that_has_moved_invites_nobody_from_here(pair: Pair) -> None:
    """That would take it to its server, and use up what it may give."""
    moved = LEAVING.moved(b"c" * COPY_SIZE, b"d" * KEY_SIZE)
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        store.write(lambda writer: write_leaving(writer, moved))
    said = pair.place / "said"
    words = ["invite", "--contact", "--account", str(pair.old), "--no-tor"]
    assert run_cbfs(words, dict(os.environ), said) == 1
    assert "has moved to another computer" in said.read_text()


def test_the_same_account_cannot_move_into_a_place_that_is_taken(pair: Pair) -> None:
    other = bare_account(pair.place / "other")
    line = MoveLine(b"s" * LINE_SECRET_SIZE, "127.0.0.1", 9).text()
    for place, why in ((other, "an account in"), (pair.place, "other files")):
        new = Beside(["-", "--account", str(place)], line, pair.place.with_name("said"))
        assert new.wait() == 1
        assert why in new.said()
    assert lives_here(other)


@pytest.mark.parametrize("name", ["store/data.mdb", "after/root.key", "spool/x.mail"])
def test_nothing_comes_over_what_is_left_of_another_account(pair: Pair, name: str) -> None:
    """Its root file may be on a stick, or to be put back."""
    left = pair.new / name
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of another account")
    line = MoveLine(b"s" * LINE_SECRET_SIZE, "127.0.0.1", 9).text()
    new = pair.come(line)
    assert new.wait() == 1
    assert "other files" in new.said()
    assert left.read_bytes() == b"of another account"


def test_a_copy_of_an_account_is_one_after_a_move_as_well(pair: Pair) -> None:
    """Its sessions are behind those of the original: a peer would see keys a second time."""
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        account = load_account(store)
        assert account is not None
        marker = Marker(account.transport, SYSTEM_RANDOM)
        assert not notice_copy(store, pair.old, marker, 1)
        store.write(lambda writer: write_standing(writer, marker.next(marker.first())))
    copy = pair.place / "copy"
    shutil.copytree(pair.old, copy)
    old = Beside(["--account", str(copy)], "", pair.place / "copy.said")
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0
    assert "begin anew" in old.said()
    with opened_store(pair.new, SYSTEM_RANDOM) as store, store.read() as reader:
        standing = read_standing(reader)
    assert standing is not None and standing.state is CopyState.TAKES_OVER


def test_a_line_as_a_word_is_refused_as_others_see_that(pair: Pair) -> None:
    line = MoveLine(b"s" * LINE_SECRET_SIZE, "127.0.0.1", 9).text()
    said = pair.place / "said"
    assert run_cbfs(["move", line, "--account", str(pair.new)], dict(os.environ), said) == 2
    assert "not given as a word" in said.read_text()
    assert not pair.new.exists()


def test_an_account_does_not_move_while_its_own_server_runs(pair: Pair) -> None:
    descriptor, ours = take_lock(pair.old / "server")
    assert ours
    try:
        old = pair.leave()
        assert old.wait() == 1
        assert "own server still runs" in old.said()
    finally:
        os.close(descriptor)


def test_the_spool_is_closed_before_an_account_has_moved(pair: Pair) -> None:
    """What a program leaves there after a crash between the two would reach nobody."""
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        departure = AccountDeparture(pair.old, store, LEAVING)

        def fail(_change: object) -> None:
            raise CbfsError("no room", "make some")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "write", fail)
            with pytest.raises(CbfsError):
                departure.note_moved(b"c" * COPY_SIZE, b"d" * KEY_SIZE)
    assert Spool(pair.old).public() == b""
    assert lives_here(pair.old)


def test_nothing_is_made_or_mounted_beside_what_has_not_come_yet(pair: Pair) -> None:
    pair.new.mkdir()
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        departure = AccountDeparture(pair.old, store, LEAVING)
        held = IncomingCopy(pair.new, no_lock)
        cut = Meeting(departure, held)
        while not held.count:
            assert cut.step_old() or cut.step_new()
        held.close()
    with (
        pytest.raises(CbfsError, match="has not come"),
        opened_store(pair.new, SYSTEM_RANDOM),
    ):
        pass
    with (
        pytest.raises(CbfsError, match="other files"),
        opened_store(pair.new, SYSTEM_RANDOM, create=Guard),
    ):
        pass


def test_the_old_computer_hears_of_a_life_that_it_was_not_told_of(pair: Pair) -> None:
    """The new computer was cut off before it could say that the account lives there."""
    pair.new.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        offered = replace(LEAVING, host="127.0.0.1", port=free.getsockname()[1])
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        store.write(lambda writer: write_leaving(writer, offered))
        held = IncomingCopy(pair.new, no_lock)
        cut = Meeting(AccountDeparture(pair.old, store, offered), held)
        while not held.lives:
            assert cut.step_old() or cut.step_new()
    assert stage(pair.old) is LeavingStage.MOVED
    assert not lives_here(pair.new)
    old = pair.leave()
    new = pair.come(old.line())
    assert new.wait() == 0, new.said()
    assert old.wait() == 0, old.said()
    assert stage(pair.old) is LeavingStage.LIVES
    assert lives_here(pair.new)
    erased = pair.leave("--erase")
    assert erased.wait() == 0, erased.said()
    assert not pair.old.exists()


def test_the_old_computer_does_not_wait_for_ever(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "WAIT_TIMEOUT", 0.01)
    line = MoveLine(b"s" * LINE_SECRET_SIZE, "127.0.0.1", 1)

    async def wait() -> None:
        with opened_store(pair.old, SYSTEM_RANDOM) as store:
            departure = AccountDeparture(pair.old, store, LEAVING)
            waiting = meeting.OldComputer(line, departure, lambda *_: None, lambda _: None)
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await waiting.until_moved(listener)

    with pytest.raises(CbfsError, match="has not come"):
        trio.run(wait)
    assert lives_here(pair.old)


def test_people_are_asked_for_the_line_and_the_passphrase(tmp_path: Path) -> None:
    guard = by_passphrase(b"a b c", SYSTEM_RANDOM)
    place, there = bare_account(tmp_path / "old", lambda: guard), tmp_path / "new"
    old = Terminal("cbfs", "move", "--no-tor", "--account", place)
    old.wait("passphrase of the account: ")
    old.type("a b c\n")
    old.wait("cbfs-move:")
    old.wait("on the new computer: cbfs move, and this line")
    assert "\u2588" in old.shown  # of the QR code
    line = "cbfs-move:" + old.shown.partition("cbfs-move:")[2].split()[0]
    for passphrase, words in (("a b", "the passphrase is wrong"), ("a b c", "lives here now")):
        new = Terminal("cbfs", "move", "--no-tor", "--account", there)
        new.wait("has printed on the old computer")
        new.type(f"{line.upper()}\n")
        new.wait("passphrase of the account: ")
        new.type(f"{passphrase}\n")
        new.wait(words)
        assert new.end() == ("wrong" in words)
        assert "Traceback" not in new.shown
    old.wait("The account has moved")
    assert old.end() == 0
    with opened_store(there, SYSTEM_RANDOM, lambda _protection: guard.lock):
        pass


def test_an_account_that_lives_is_put_in_its_place_though_the_connection_is_cut(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        store.write(lambda writer: write_leaving(writer, LEAVING))
        departure = AccountDeparture(pair.old, store, LEAVING)

        def cut(_place: Path, _line: MoveLine, held: IncomingCopy, *_more: object) -> None:
            through = Meeting(departure, held)
            while not held.lives:
                assert through.step_old() or through.step_new()
            raise meeting.MoveCut("broke")

        monkeypatch.setattr(program, "_fetch", cut)
        line = MoveLine(LEAVING.secret, "127.0.0.1", 9).text()
        monkeypatch.setattr(program, "read_line", lambda _question: line)
        words = ["move", "-", "--no-tor", "--account", str(pair.new)]
        options = command_line(words).parse_args(words)
        assert options.run(options) == 0
    assert "may not have heard" in capsys.readouterr().err
    assert lives_here(pair.new)
    assert not lives_here(pair.old)


def test_a_line_for_tor_is_not_offered_without_it(pair: Pair) -> None:
    with opened_store(pair.old, SYSTEM_RANDOM) as store:
        store.write(lambda writer: write_leaving(writer, LEAVING))
    old = pair.leave()
    assert not old.line()
    assert old.wait() == 1
    assert "without --no-tor" in old.said()
