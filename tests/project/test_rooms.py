"""The plan of ``cbfs`` and of the name directory: rooms, what each may enter, by which doors, and
words that mean one thing.

Each room says in its ``__init__.py`` what it is, and in ``FACE`` which of its modules others may
import. ``PLANS`` says who may enter whom.
"""

import ast
import importlib
import operator
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project.test_project import (
    PACKAGES,
    ROOT,
    name_of,
    sources,
    sources_of_tests,
    tree,
)

_ENGINE = "interface context contacts messages network problems storage"
ALLOWED = {
    "storage": "",
    "problems": "",
    "account": "storage",
    "messages": "storage",
    "network": "problems",
    "names": "network storage",
    "contacts": "names storage problems",
    "interface": "account contacts messages storage",
    "context": "account contacts messages names network problems storage",
    "sending": _ENGINE,
    "receiving": f"sending names account {_ENGINE}",
    "engine": f"receiving sending names account {_ENGINE}",
    "tree": "interface contacts messages account problems storage",
    "outbox": "tree interface messages problems storage",
    "mount": "outbox tree interface messages problems storage",
}
"""What each room or file of ``cbfs`` may import of the others. ``commands`` may import all, and is
imported by none."""

PLANS = {
    "cbfs": ALLOWED,
    "cbfs_server": {
        "limits": "",
        "turns": "limits",
        "metrics": "",
        "store": "limits",
        "lmdb_store": "store limits",
        "postgres_store": "store limits",
        "newcomers": "store limits",
        "settings": "store limits",
        "push": "store limits",
        "visits": "push store",
        "service": "visits newcomers push store limits",
        "housekeeping": "service newcomers push store limits",
        "sockets": "service push turns limits",
        "figures": "sockets housekeeping push store",
        "admin": "figures store limits",
        "registrar": "",
        "cli": "admin figures sockets housekeeping push settings newcomers registrar metrics"
        " lmdb_store postgres_store store limits",
        "entry": "",
    },
    "cbfs_names": {
        "limits": "",
        "state": "limits",
        "wire": "state limits",
        "rounds": "state wire limits",
        "processes": "rounds wire state limits",
        "admin": "processes rounds wire state limits",
    },
}
"""The same of each package that has rooms."""

FILES = {"__init__", "interface", "context", "problems"}
ROOM_FILES_MAX = 16


@dataclass(frozen=True)
class Import:
    """``place`` (file:line) imports ``module``, dotted, of another room than its own."""

    place: str
    room: str
    module: str

    @property
    def entered(self) -> str:
        return self.module.split(".")[1]


def imported(node: ast.stmt | ast.AST, package: Path) -> Iterator[str]:
    """The modules of the package that a statement imports, dotted."""
    if isinstance(node, ast.Import):
        yield from (a.name for a in node.names if a.name.startswith(f"{package.name}."))
    elif isinstance(node, ast.ImportFrom) and node.module:
        parts = node.module.split(".")
        if parts[0] == package.name:
            folder = package.joinpath(*parts[1:])
            for alias in node.names:
                inner = folder / alias.name
                if folder.is_dir() and (inner.is_dir() or inner.with_suffix(".py").exists()):
                    yield f"{node.module}.{alias.name}"
                else:
                    yield node.module


def imports_between_rooms(package: Path) -> list[Import]:
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            for module in sorted(set(imported(node, package))):
                line = getattr(node, "lineno", 0)
                one = Import(f"{path.relative_to(package.parent)}:{line}", room, module)
                if one.entered != room:
                    found.append(one)
    return found


def through_walls(package: Path) -> list[str]:
    """Imports of rooms that the importing room may not enter."""
    return [
        f"{one.place} {one.module}"
        for one in imports_between_rooms(package)
        if one.room != "commands"
        and one.entered not in PLANS[package.name].get(one.room, "").split()
    ]


def face_of(room: Path) -> set[str]:
    """The modules that ``__init__.py`` of a room names in ``FACE``, empty when it has none."""
    for node in ast.parse((room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FACE":
            return set(ast.literal_eval(node.value))
    return set()


def rooms(package: Path) -> list[Path]:
    return sorted(path.parent for path in package.glob("*/__init__.py"))


def beside_doors(package: Path) -> list[str]:
    """Imports of modules that are not in the face of their room."""
    faces = {room.name: face_of(room) for room in rooms(package)}
    return [
        f"{one.place} {one.module}"
        for one in imports_between_rooms(package)
        if one.entered in faces
        and one.module.removeprefix(f"{package.name}.{one.entered}").lstrip(".")
        not in faces[one.entered]
    ]


def never_used(package: Path) -> list[str]:
    """Modules in a face that no other room imports."""
    used = {one.module for one in imports_between_rooms(package)}
    faces = {f"{package.name}.{room.name}.{module}" for room in rooms(package)
             for module in face_of(room)}  # fmt: skip
    return sorted(faces - used)


@pytest.mark.parametrize("package", PLANS)
def test_no_import_goes_through_a_wall(package: str) -> None:
    assert not through_walls(PACKAGES[package])


@pytest.mark.parametrize("package", PLANS)
def test_rooms_are_entered_by_their_doors(package: str) -> None:
    assert not beside_doors(PACKAGES[package])


@pytest.mark.parametrize("package", PLANS)
def test_a_face_has_no_more_than_is_used(package: str) -> None:
    assert not never_used(PACKAGES[package])


def test_each_package_with_rooms_has_a_plan() -> None:
    faces = {name for name, folder in PACKAGES.items() if any(map(face_of, rooms(folder)))}
    assert faces == set(PLANS)


@pytest.mark.parametrize("package", PLANS)
def test_no_two_rooms_lead_into_each_other(package: str) -> None:
    """The rooms have an order: each is below those that may enter it."""
    plan = PLANS[package]
    below: set[str] = set()
    while rest := set(plan) - below:
        free = {room for room in rest if set(plan[room].split()) <= below}
        assert free, f"a circle among {sorted(rest)}"
        below |= free


def test_the_towers_do_not_know_each_other() -> None:
    mount, engine = {"tree", "outbox", "mount"}, {"sending", "receiving", "engine"}
    for room in mount:
        assert not engine & set(ALLOWED[room].split())
    for room in engine:
        assert not mount & set(ALLOWED[room].split())


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with two rooms and their doors as they should be."""
    package = tmp_path / "cbfs"
    for room, face in (("storage", '("store",)'), ("messages", '("history",)')):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text(f'"""A room."""\n\nFACE = {face}\n')
    (package / "commands").mkdir()
    (package / "commands" / "main.py").write_text("from cbfs.messages import history\n")
    (package / "storage" / "store.py").write_text("")
    (package / "storage" / "pages.py").write_text("")
    (package / "messages" / "history.py").write_text("from cbfs.storage.store import Store\n")
    assert not (through_walls(package) or beside_doors(package) or never_used(package))
    return package


@pytest.mark.parametrize(
    "line",
    [
        "from cbfs.messages.history import History",
        "from cbfs.messages import history",
        "import cbfs.messages.history",
        "from cbfs import messages",
        "def late():\n    from cbfs.messages import history",
    ],
)
def test_an_import_through_a_wall_is_found(house: Path, line: str) -> None:
    (house / "storage" / "pages.py").write_text(line)
    (found,) = through_walls(house)
    assert found.startswith("cbfs/storage/pages.py:")


@pytest.mark.parametrize(
    "line", ["from cbfs.storage.pages import P", "from cbfs.storage import pages, store"]
)
def test_an_import_beside_a_door_is_found(house: Path, line: str) -> None:
    (house / "messages" / "history.py").write_text(line + "\nimport cbfs.storage.store")
    assert beside_doors(house) == ["cbfs/messages/history.py:1 cbfs.storage.pages"]


def test_a_door_that_nobody_uses_is_found(house: Path) -> None:
    (house / "commands" / "main.py").write_text("")
    assert never_used(house) == ["cbfs.messages.history"]


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "__pycache__"]


def test_the_house_has_thirteen_rooms() -> None:
    package = PACKAGES["cbfs"]
    assert {path.stem for path in entries(package) if path.is_file()} == FILES
    assert len(rooms(package)) == len([path for path in entries(package) if path.is_dir()]) == 13
    assert {room.name for room in rooms(package)} | FILES == {*ALLOWED, "commands", "__init__"}


def test_a_room_can_be_seen_at_one_look() -> None:
    for package in PACKAGES.values():
        for folder in {path.parent for path in package.rglob("*.py")}:
            if folder != package:
                assert len(entries(folder)) <= ROOM_FILES_MAX, folder


def test_no_file_is_a_link() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not [line for line in listed.stdout.splitlines() if line.startswith("120000")]


def test_a_class_name_has_one_bearer() -> None:
    bearers: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                bearers.setdefault(node.name, []).append(name_of(path))
    assert not {name: places for name, places in bearers.items() if len(places) > 1}


def test_a_docstring_stands_alone() -> None:
    """What leans on another text dies when one of the two moves. Texts below constants count."""
    leaning = [
        f"{name_of(path)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.strip().startswith(("See ", "The same"))
    ]
    assert not leaning


DOTTED = re.compile(r"(?:cbfs|cbfs_common|cbfs_host|cbfs_server|cbfs_names)(?:\.\w+)+")


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to a module or to what is in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        try:
            operator.attrgetter(".".join(parts[count:]))(found) if parts[count:] else found
        except AttributeError:
            return False
        return True
    return False


def test_what_tests_and_texts_name_is_there() -> None:
    """Names in strings and docstrings outlive what they name, as no checker of types sees them."""
    assert resolves("cbfs.problems.Retries.turn")
    assert not resolves(".".join(("cbfs", "problems", "Never")))
    dead = {}
    for path in (*sources(), *sources_of_tests()):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                quoted = re.findall(r"``([^`]+)``", node.value)
                for text in (node.value, *quoted):
                    if DOTTED.fullmatch(text) and not resolves(text):
                        dead[text] = f"{name_of(path)}:{node.lineno}"
    assert not dead
