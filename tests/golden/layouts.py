"""What each store's format is, as text: its number, tables, keys, and the code of what encodes and
decodes its records.

``layouts/STORE-NUMBER.txt`` has that of each number, as it is committed. Where the code says
something else than the file of its number, ``tests/golden/test_layouts.py`` fails, and CONTRIBUTING
says under *Change a record* what to do. ``python -m tests.golden.layouts`` writes the files of the
numbers of now.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cbfs.account.formats import UPGRADES
from cbfs.commands import export
from cbfs.storage import root_key
from cbfs.storage.tables import OF_CONVERSATION, OF_SEGMENT, WHOLE, Meta, Series, Table
from cbfs_names.state import store as names
from cbfs_names.state.tables import StateTable
from cbfs_server.lmdb_store import store as mail
from cbfs_server.lmdb_store.tables import NAMES
from cbfs_server.postgres_store import schema

ROOT = Path(__file__).parents[2]
LAYOUTS = Path(__file__).with_name("layouts")

PACKERS = frozenset(("pack", "unpack", "unpack_map", "Struct", "kdf", "Fields", "long", "short"))
"""Calls whose arguments are a part of what is on the disk, in whatever function they are."""

CODECS = ("encode", "decode", "read", "seal", "open", "pack", "unpack")
"""Functions whose names begin so, with or without ``_``, are a part of it as a whole, if the
module has a packer or they are one's own (``encode``, ``decode``)."""

_TYPES = frozenset(("annotation", "returns", "type_params", "type_comment"))
"""Fields of the parts of a program that say of which types something is, and do nothing."""


@dataclass(frozen=True, slots=True)
class Format:
    """A store's format: its ``name``, its ``number`` now, the formats before that are upgraded, and
    what its records are made by: files and folders, and what else is said of it."""

    name: str
    number: int
    upgraded: frozenset[int]
    sources: tuple[str, ...]
    also: Callable[[], Iterable[str]]

    @property
    def file(self) -> Path:
        """Where its layout is, as it is committed."""
        return LAYOUTS / f"{self.name}-{self.number}.txt"

    def layout(self, root: Path = ROOT) -> str:
        """As the code has it now."""
        codes = sorted(line for each in self.sources for line in _codes(root / each))
        return "\n".join((*self.also(), "", *codes)) + "\n"


def _account() -> Iterator[str]:
    yield f"root file {root_key.MAGIC!r}"
    for table in Table:
        kinds = {"whole": WHOLE, "of segment": OF_SEGMENT, "of conversation": OF_CONVERSATION}
        yield " ".join((f"table {table.value!r}", *(k for k, v in kinds.items() if table in v)))
    yield from (f"key {key.value!r}" for key in Meta)
    yield from (f"series {key.value!r}" for key in Series)


def _export() -> Iterator[str]:
    yield f"magic {export.MAGIC!r}, of store {export.STORE_FORMATS[export.FORMAT]}"


def formats() -> tuple[Format, ...]:
    """Those of all stores: who adds a store adds it here."""
    common = "common/cbfs_common"
    return (
        Format(
            "account",
            root_key.FORMAT,
            frozenset(UPGRADES),
            (
                *("cbfs/storage", "cbfs/messages", "cbfs/contacts", "cbfs/names"),
                *("cbfs/account", "cbfs/receiving", "cbfs/sending", "cbfs/engine", "cbfs/outbox"),
                *("cbfs/tree", f"{common}/names/checks.py", f"{common}/names/entry.py"),
                *(f"{common}/session/state.py", f"{common}/profile.py", f"{common}/messages"),
            ),
            _account,
        ),
        Format(
            "export",
            export.FORMAT,
            frozenset(export.STORE_FORMATS) - {export.FORMAT},
            ("cbfs/commands/export.py",),
            _export,
        ),
        Format(
            "server",
            mail.FORMAT.newest,
            frozenset(mail.FORMAT.upgrades),
            ("server/cbfs_server/lmdb_store", "common/cbfs_host/store_format.py"),
            lambda: (f"table {name!r}" for name in NAMES),
        ),
        Format(
            "server-postgres",
            schema.VERSION,
            frozenset(schema.UPGRADES),
            ("server/cbfs_server/postgres_store",),
            lambda: [schema.SCHEMA.strip()],
        ),
        Format(
            "names",
            names.FORMAT.newest,
            frozenset(names.FORMAT.upgrades),
            (
                *("server/cbfs_names/state", "common/cbfs_host/store_format.py"),
                *(f"{common}/names/entry.py", f"{common}/names/operations.py"),
            ),
            lambda: (f"table {table.value!r}" for table in StateTable),
        ),
    )


def _codes(place: Path) -> Iterator[str]:
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    for file in files:
        yield from codes_of(file.read_text(), file.stem)


def codes_of(source: str, module: str) -> Iterator[str]:
    """A line for each codec of a module, and for each call of a packer outside of one. Comments,
    docstrings and where it stands in the file say nothing of it."""
    yield from _walk(ast.parse(source), module)


def _walk(node: ast.AST, name: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{name}.{child.name}"
            if not isinstance(child, ast.ClassDef) and _is_codec(child):
                yield f"{inner} {_digest(child)}"
            else:
                yield from _walk(child, inner)
        elif isinstance(child, ast.Call) and _called(child) in PACKERS:
            yield f"{name}: {ast.unparse(child)}"
        else:
            yield from _walk(child, name)


def _is_codec(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    bare = node.name.lstrip("_").partition("_")[0]
    if bare in ("encode", "decode"):
        return True
    calls = {_called(each) for each in ast.walk(node) if isinstance(each, ast.Call)}
    return bare in CODECS and not calls.isdisjoint(PACKERS)


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _digest(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Of what a function does: without docstrings and the types that it names."""
    return sha256(_dumped(node).encode()).hexdigest()[:16]


def _dumped(found: object) -> str:
    """A part of a program as text that is the same with every version of Python: ``ast.unparse``
    quotes in the way of its version, and ``ast.dump`` has the empty fields or has them not."""
    if isinstance(found, list):
        return f"[{', '.join(_dumped(each) for each in found)}]"
    if not isinstance(found, ast.AST):
        return repr(found)
    fields = {field: value for field, value in ast.iter_fields(found) if field not in _TYPES}
    if isinstance(found, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        documented = ast.get_docstring(found, clean=False) is not None
        fields["body"] = found.body[1:] if documented else found.body
    said = (
        f"{field}={_dumped(value)}" for field, value in fields.items() if value not in (None, [])
    )
    return f"{type(found).__name__}({', '.join(said)})"


def main() -> None:
    """Write the files of the numbers of now."""
    for each in formats():
        each.file.write_text(each.layout())


if __name__ == "__main__":
    main()
