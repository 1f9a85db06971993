"""What ``status`` says is wrong says whose, why and what to do, where there is something to do."""

import ast
import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from inspect import isclass
from pathlib import Path

import pytest
import trio

import cbfs
from cbfs.engine.running import running
from cbfs.messages.queues import note_queue
from cbfs.messages.queues.note_queue import Missing, NoteKind, enqueue, items_for, settle
from cbfs.messages.queues.progress import missing_line, unread_lines
from cbfs.messages.queues.quarantine import Keeping, QuarantinedEnvelope, Why
from cbfs.outbox.rule import Hold
from cbfs.storage.store import Store, Table
from cbfs.tree.texts import error_text, in_one_line
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.limits import ASKS_MAX, ENVELOPE_SIZE
from cbfs_common.session.session import Duplicate
from tests.engine.test_engine import NO_TOR
from tests.support.stores import open_store
from tests.support.world import World

HOUSE = Path(cbfs.__file__).parent
SOURCES = sorted(HOUSE.rglob("*.py"))

IN_FULL = ("in_full", "{hint}", "_words")
"""What brings the hint of an error, or of a text, with it."""

NOTHING_TO_DO = {
    "link.py": {"the server pushes more than it may", "the server answers what was not asked"},
    "program.py": {"it was told to end before there was a mount"},
    "own_server.py": {"your own server has no address", " holds other keys than peers know it by"},
    "private_network.py": {  # of the private network of tests and demos
        "the private Tor network ended while it was starting",
        "the first consensus lacks a relay",
        "the private network's  was not ready in time",
    },
}
"""Errors without a hint in what runs below a mount, by module: what to do about them nobody knows,
or it is done by itself."""

BESIDE = {
    *("cbfs.account.passphrase", "cbfs.account.passphrase_source"),
    *("cbfs.commands.account", "cbfs.commands.export", "cbfs.commands.main"),
    *(
        "cbfs.commands.options",
        "cbfs.commands.init",
        "cbfs.commands.home.beginning",
        "cbfs.commands.verify",
    ),
    "cbfs.network.tor.control",
    *("cbfs.storage.root_key", "cbfs.storage.salvage"),
    "cbfs.tree.restore",
}
"""Modules whose errors end a command before anything is mounted, and are told at once."""


def module_texts(tree: ast.Module) -> dict[str, str]:
    """Texts that have a name, of a module."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = words(node.value)
    return found


def imported_texts(tree: ast.Module) -> dict[str, str]:
    """Texts that have a name in another module, from which this one has them."""
    return {
        each.asname or each.name: text
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cbfs.")
        for each in node.names
        if each.name.isupper()
        and isinstance(text := getattr(importlib.import_module(str(node.module)), each.name), str)
    }


def words(node: ast.expr) -> str:
    """What a text says, with what is filled in as ``{...}``."""
    if isinstance(node, ast.JoinedStr):
        return "".join(words(each) for each in node.values)
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "{" + ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node) + "}"


def problems() -> Iterator[tuple[str, str]]:
    """(where, text) of all that is told by ``Problems.set``."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        named = module_texts(tree) | imported_texts(tree)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "set"
                and ast.unparse(node.func.value).endswith("problems")
            ):
                text = node.args[1]
                said = named.get(text.id, "") if isinstance(text, ast.Name) else words(text)
                yield f"{path.name}:{node.lineno}", said


def test_each_problem_says_what_to_do() -> None:
    found = list(problems())
    assert len(found) > 20
    lacking = [
        (where, said)
        for where, said in found
        if not said.endswith(")") and not any(mark in said for mark in IN_FULL)
    ]
    assert not lacking


def test_each_problem_says_of_what_it_is() -> None:
    """No line begins with a pronoun, whose meaning only the next one would tell."""
    for where, said in problems():
        assert not said.startswith(("they ", "it ", "one's own")), where
        assert not said.startswith("{error"), where


def test_each_error_below_a_mount_has_a_hint() -> None:
    lacking = []
    for path in SOURCES:
        name = ".".join(("cbfs", *path.relative_to(HOUSE).with_suffix("").parts))
        if name in BESIDE:
            continue
        module = importlib.import_module(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            kind = getattr(module, ast.unparse(node.exc.func), None)
            if not isclass(kind) or not issubclass(kind, CbfsError):
                continue
            if (
                kind in {DecodeError, CryptoError, Duplicate}
                or kind.__init__ is not CbfsError.__init__
            ):
                continue  # of bytes from elsewhere; or it has words of its own
            if len(node.exc.args) + len(node.exc.keywords) < 2:
                said = ast.parse(ast.unparse(node.exc.args[0]), mode="eval").body
                parts = said.values if isinstance(said, ast.JoinedStr) else [said]
                text = "".join(str(p.value) for p in parts if isinstance(p, ast.Constant))
                if text not in NOTHING_TO_DO.get(path.name, ()):
                    lacking.append(f"{path.name}:{node.lineno}: {text}")
    assert not lacking


def test_quarantine_is_in_the_status_while_there_is_something_in_it(tmp_path: Path) -> None:
    async def go(account: Path) -> None:
        async with running(account, NO_TOR) as engine:
            assert not any("quarantine" in line for line in engine.report().problems)
            noise = QuarantinedEnvelope(bytes(ENVELOPE_SIZE), Why.NOISE)
            await engine.store.commit(lambda writer: Keeping(writer).keep(noise))
            (line,) = (line for line in engine.report().problems if "quarantine" in line)
            assert line == unread_lines(1)[0]
            await engine.store.commit(lambda writer: writer.delete_prefix(Table.QUARANTINE, b""))
            assert not any("quarantine" in line for line in engine.report().problems)

    with ExitStack() as stack:
        trio.run(go, World(tmp_path, stack).account("alice").account)


@pytest.mark.parametrize("hint", ["", "rename it"])
def test_what_stays_in_the_outbox_is_told_with_its_hint(hint: str) -> None:
    told = error_text(CbfsError("nobody is called bob"), hint)
    wanted = "This was not sent: nobody is called bob."
    assert in_one_line(told) == (f"{wanted} (rename it)" if hint else wanted)
    assert Hold("it is empty", None, hint).in_full == "it is empty" + (hint and f" ({hint})")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def test_until_when_a_missing_message_is_asked_for_is_true(store: Store) -> None:
    """From the first time that somebody is to be asked until the last."""
    ref, other = b"c" * 16 + b"m" * 16, b"c" * 16 + b"n" * 16
    for peer in "bob", "carol":
        store.write(lambda writer, p=peer: enqueue(writer, {}, p, NoteKind.WANT, ref, 5_000))  # type: ignore[misc]
    store.write(lambda writer: enqueue(writer, {}, "bob", NoteKind.WANT, other, 4_000))
    with store.read() as reader:
        (first,) = note_queue.missing(reader).values()
        assert first.count == 2
    told = 0
    for _ in range(ASKS_MAX):
        with store.read() as reader:
            assert note_queue.missing(reader)[b"c" * 16] == Missing(2, first.until)
            due = list(items_for(reader, "bob")) + list(items_for(reader, "carol"))
        assert due
        told = max(debt.due for debt in due)
        for debt in due:
            store.write(lambda writer, d=debt: settle(writer, [d], d.due))  # type: ignore[misc]
    assert told == first.until
    with store.read() as reader:
        assert not note_queue.missing(reader)


def test_what_is_missing_names_the_place_the_end_and_what_to_do() -> None:
    one, two = (missing_line(n, "2026-11-28-a-b", 1_795_897_476_000) for n in (1, 2))
    assert one.startswith("1 message is missing in 2026-11-28-a-b: others are asked for it until")
    assert "until 2026-11-28 (" in one
    assert "left you out" in one
    assert two.startswith("2 messages are missing in 2026-11-28-a-b: others are asked for them")


def test_what_cannot_be_read_is_told_while_it_is_there() -> None:
    assert unread_lines(0) == ()
    (one,), (two,) = unread_lines(1), unread_lines(2)
    assert one.startswith("1 envelope that arrived cannot be read (")
    assert two.startswith("2 envelopes that arrived cannot be read (")
    assert "after a restore" in one
    assert "rm quarantine/*" in one
