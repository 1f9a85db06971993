"""An error is told with its hint, wherever it is told."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs_common.errors import CbfsError

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "cbfs": ROOT / "cbfs",
    "cbfs_common": ROOT / "common" / "cbfs_common",
    "cbfs_host": ROOT / "common" / "cbfs_host",
    "cbfs_server": ROOT / "server" / "cbfs_server",
    "cbfs_names": ROOT / "server" / "cbfs_names",
}
TELLING = {"debug", "info", "warning", "error", "exception"}


def sources() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            yield ".".join((package, *path.relative_to(folder).with_suffix("").parts)), path


def is_ours(kind: ast.expr | None, module: str) -> bool:
    """Whether an ``except`` of this kind gets errors that can have a hint."""
    if kind is None:
        return False
    if isinstance(kind, ast.Tuple):
        return any(is_ours(each, module) for each in kind.elts)
    here: object = vars(importlib.import_module(module))
    for name in ast.unparse(kind).split("."):
        here = here.get(name) if isinstance(here, dict) else getattr(here, name, None)
    return isinstance(here, type) and issubclass(here, CbfsError)


def told(handler: ast.ExceptHandler) -> Iterator[ast.AST]:
    """Where the text of what was caught is used: f"{error}", str(error), log("%s", error)."""
    for node in ast.walk(handler):
        uses: list[ast.expr] = []
        if isinstance(node, ast.FormattedValue):
            uses = [node.value]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "str" or called.rpartition(".")[2] in TELLING:
                uses = node.args
        if any(isinstance(use, ast.Name) and use.id == handler.name for use in uses):
            yield node


def statement(handler: ast.ExceptHandler, node: ast.AST) -> str:
    """The smallest call or simple statement that the text goes into, as it is written."""
    best = ast.unparse(handler)
    for each in ast.walk(handler):
        simple = isinstance(each, ast.Call | ast.Expr | ast.Assign | ast.Return | ast.Raise)
        if simple and each is not node and any(below is node for below in ast.walk(each)):
            text = ast.unparse(each)
            best = text if len(text) < len(best) else best
    return best


def has_better(text: str, module: str) -> bool:
    """Whether it becomes an error with a hint of its own."""
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        return False
    return isinstance(call, ast.Call) and len(call.args) > 1 and is_ours(call.func, module)


def offenders(module: str, path: Path) -> Iterator[str]:
    for handler in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(handler, ast.ExceptHandler)
            and handler.name
            and is_ours(handler.type, module)
        ):
            for node in told(handler):
                text = statement(handler, node)
                if f"{handler.name}.hint" not in text and not has_better(text, module):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {text}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda v: getattr(v, "name", v))
def test_no_hint_is_dropped(module: str, path: Path) -> None:
    assert not list(offenders(module, path))


def test_offenders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What drops a hint, and what does not."""
    begin = "from cbfs_common.errors import CbfsError, DecodeError\ndef f(log, say):\n try: f()\n"
    drops = ("say(str(error))", "say(f'no: {error}')", "log.error('%s', error)", "x = f'{error!s}'")
    keeps = (
        "say(error.in_full)",
        "say(str(error), error.hint)",
        "raise",
        "log.error('it failed')",
        "raise DecodeError(f'no: {error}', 'better')",
    )
    monkeypatch.setattr("tests.project.test_hints.ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, line in enumerate((*drops, *keeps)):
        for kind in ("CbfsError", "(OSError, DecodeError)"):
            name = f"example{number}{len(kind)}"
            path = tmp_path / f"{name}.py"
            path.write_text(f"{begin} except {kind} as error: {line}\n")
            assert bool(list(offenders(name, path))) == (line in drops), line
            sys.modules.pop(name)
    path = tmp_path / "foreign.py"
    path.write_text(f"{begin} except OSError as error: say(str(error))\n")
    assert not list(offenders("foreign", path))


def test_in_full() -> None:
    assert CbfsError("it failed", "try again").in_full == "it failed (try again)"
    assert CbfsError("it failed").in_full == "it failed"
