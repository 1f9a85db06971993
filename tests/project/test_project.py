"""The rules of the project that a tool does not know: who imports what, sizes, and documents
that say what the code does."""

import ast
import configparser
import hashlib
import importlib
import operator
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cbfs.account.settings import KEYS
from tests.models.proofs import proven

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "cbfs": ROOT / "cbfs",
    "cbfs_common": ROOT / "common" / "cbfs_common",
    "cbfs_host": ROOT / "common" / "cbfs_host",
    "cbfs_server": ROOT / "server" / "cbfs_server",
    "cbfs_names": ROOT / "server" / "cbfs_names",
}
OUTSIDE_THE_CORE = {
    *("asyncio", "os", "pathlib", "random", "secrets", "select", "selectors", "shutil"),
    *("signal", "socket", "ssl", "stem", "subprocess", "tempfile", "threading", "time", "trio"),
    *("lmdb", "pyfuse3", "python_socks", "logging"),
}
"""What the sans-I/O core must not import: no clock, no randomness, no I/O."""

ONLY_IN = {
    "pyfuse3": {
        *(
            "cbfs/mount/operations.py",
            "cbfs/mount/lifecycle.py",
            "cbfs/mount/mounting.py",
            "cbfs/mount/notifier.py",
            "cbfs/mount/attributes.py",
        ),
        *(
            "cbfs/mount/single/operations.py",
            "cbfs/mount/single/server.py",
            "cbfs/mount/single/process.py",
            "cbfs/mount/remote/operations.py",
            "cbfs/mount/remote/process.py",
        ),
    },
    "lmdb": {
        "common/cbfs_host/lmdb_environment.py",
        "common/cbfs_host/store_file.py",
        "cbfs/earlier/old_store.py",
        "cbfs/storage/store.py",
        "server/cbfs_server/lmdb_store/mailboxes.py",
        "server/cbfs_server/lmdb_store/store.py",
        "server/cbfs_server/lmdb_store/tables.py",
        "server/cbfs_names/state/store.py",
    },
    "psycopg": {
        "server/cbfs_server/postgres_store/opening.py",
        "server/cbfs_server/postgres_store/wire.py",
    },
    "stem": {
        "cbfs/network/tor/control.py",
        "common/cbfs_host/onion_service.py",
        "common/cbfs_host/tor_control.py",
    },
}
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60


def sources(*packages: str) -> Iterator[Path]:
    for package in packages or PACKAGES:
        yield from sorted(PACKAGES[package].rglob("*.py"))


def sources_of_tests() -> Iterator[Path]:
    yield from sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


RELATIVE = "(relative)"


def imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in it; RELATIVE for what it
    imports from where it stands itself."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(RELATIVE if node.level else (node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_itself_and_what_is_common_only(package: str) -> None:
    """The core stands on nothing, and what knows the machine on the core alone. Each import says
    from where: the rules of rooms see none that begins with a dot."""
    foreign = {*PACKAGES, "tests", RELATIVE} - {package, "cbfs_common"}
    if package != "cbfs_common":
        foreign -= {"cbfs_host"}
    offenders = {name_of(path): imports(path) & foreign for path in sources(package)}
    assert not {name: found for name, found in offenders.items() if found}


def test_an_import_from_where_a_file_stands_is_found(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("def late():\n    from ..messages import history\n")
    assert imports(tmp_path / "late.py") == {RELATIVE}


def test_the_core_does_no_io() -> None:
    offenders = {name_of(path): imports(path) & OUTSIDE_THE_CORE for path in sources("cbfs_common")}
    assert not {name: found for name, found in offenders.items() if found}


@pytest.mark.parametrize("module", ONLY_IN)
def test_one_file_knows_each_boundary(module: str) -> None:
    users = {name_of(path) for path in sources() if module in imports(path)}
    assert users <= ONLY_IN[module]


RECORD_KEYS = "cbfs/storage/tables.py"


def spelt_beside_a_table(module: ast.Module) -> Iterator[int]:
    """Lines in which a record's key is written out beside its table."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and any(
            isinstance(one, ast.Attribute)
            and ast.unparse(one) == "Table.META"
            and any(
                isinstance(part, ast.Constant) and isinstance(part.value, bytes)
                for part in ast.walk(other)
            )
            for one, other in pairwise(node.args[:2])
        ):
            yield node.lineno


FROZEN = "cbfs/earlier/"
"""Reads the records of a format that is no more, and writes those of a format that may be no more
one day: it says all that it knows of them itself."""


def test_one_file_spells_each_record_key() -> None:
    """Two places that know one format disagree one day: all fixed keys are in one enumeration, and
    what begins a key is nowhere else."""
    spelt = []
    for path in sources("cbfs"):
        if name_of(path).startswith(FROZEN):
            continue
        module = tree(path)
        spelt += [f"{name_of(path)}:{line}" for line in spelt_beside_a_table(module)]
        if name_of(path) == RECORD_KEYS:
            continue
        for node in ast.walk(module):
            word = node.value if isinstance(node, ast.Constant) else None
            if isinstance(word, bytes) and re.fullmatch(rb"[a-z][a-z-]*( [a-z]+)* ", word):
                spelt.append(f"{name_of(path)}: {word!r}")
    assert not spelt
    for line in ('get(Table.META, b"own")', 'put(Table.META, b"left " + x, b"")'):
        assert list(spelt_beside_a_table(ast.parse(line)))
    assert not list(spelt_beside_a_table(ast.parse('put(Table.META, Meta.OWN, b"1")')))


def test_no_file_of_a_package_is_a_link_to_anothers() -> None:
    assert not [name_of(path) for path in sources() if path.is_symlink()]


NOT_RECORDS = {"cbfs/tree/virtual/conversation_folder.py"}
"""Packs what is compared with itself, and never read."""


def codecs(module: ast.Module) -> tuple[list[str], list[str], list[str]]:
    """(functions that pack a record, those that unpack one, calls that stand elsewhere)."""
    packing: list[str] = []
    unpacking: list[str] = []
    astray: list[str] = []

    def look(node: ast.AST, function: str) -> None:
        for child in ast.iter_child_nodes(node):
            within = child.name if isinstance(child, ast.FunctionDef) else function
            if isinstance(child, ast.Call) and ast.unparse(child.func) in {"pack", "unpack"}:
                packs = ast.unparse(child.func) == "pack"
                word, found = ("encode", packing) if packs else ("decode", unpacking)
                right = re.match(rf"_?{word}", function)
                (found if right else astray).append(function)
            look(child, within)

    look(module, "")
    return packing, unpacking, astray


def test_one_place_unpacks_each_record() -> None:
    """The codec of a record is two functions that stand together, and nothing else knows its form:
    so where a record is packed it is unpacked, once each."""
    alone = {}
    for path in sources("cbfs"):
        module = tree(path)
        used = {
            name.name
            for node in module.body
            if isinstance(node, ast.ImportFrom) and node.module == "cbfs.storage.encoding"
            for name in node.names
        }
        other = name_of(path) in NOT_RECORDS or name_of(path).startswith(FROZEN)
        if other or used.isdisjoint({"pack", "unpack"}):
            continue
        packing, unpacking, astray = codecs(module)
        listing = name_of(path) == "cbfs/messages/listings.py"  # unpacks a page with many at once
        if astray or (len(packing) != len(unpacking) and not listing):
            alone[name_of(path)] = packing, unpacking, astray
    assert not alone


@pytest.mark.parametrize(
    "second",
    [
        "def other(data):\n    return unpack(data, int)[0]",
        "def decode_again(data):\n    return unpack(data, int)",
        "def change(writer):\n    writer.put(key, pack(1))",
    ],
)
def test_a_second_place_that_knows_a_record_is_found(second: str) -> None:
    codec = "def encode(x):\n    return pack(x)\ndef _decode(data):\n    return unpack(data, int)\n"
    packing, unpacking, astray = codecs(ast.parse(codec))
    assert len(packing) == len(unpacking) == 1
    assert not astray
    packing, unpacking, astray = codecs(ast.parse(codec + second))
    assert astray or len(packing) != len(unpacking)


def test_input_is_not_checked_by_assert() -> None:
    """An assert vanishes under ``python -O``, and its error is not one of ours."""
    assert not [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
    ]


def test_files_are_short_enough_to_read() -> None:
    lengths = {
        name_of(path): len(path.read_text().splitlines())
        for path in (*sources(), *sources_of_tests())
    }
    assert not {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX}


def test_functions_are_short_enough_to_read() -> None:
    long = {}
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert not long


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|NotImplemented(?:Error)")
    assert not [
        f"{name_of(path)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]


def test_every_label_is_used_once() -> None:
    """Two derivations with one label would be one derivation. What is frozen repeats some."""
    places: dict[bytes, list[str]] = {}
    for path in sources():
        for node in ast.walk(tree(path)):
            label = node.value if isinstance(node, ast.Constant) else None
            if isinstance(label, bytes) and label.startswith(b"cbfs1 "):
                places.setdefault(label, []).append(name_of(path))
    assert places
    for found in places.values():
        now = [place for place in found if not place.startswith(FROZEN)]
        found[:] = now or found
    assert not {label: found for label, found in places.items() if len(found) > 1}


# PROTOCOL.rst


def specification() -> list[Path]:
    """The overview and the documents beside it."""
    return [ROOT / "common" / "PROTOCOL.rst", *sorted((ROOT / "common" / "protocol").glob("*.rst"))]


CONSTANT = re.compile(r"\s+(?P<name>[A-Z][A-Z0-9_]+) = (?P<value>\S.*?)\s*\Z")
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def constants(text: str) -> Iterator[tuple[str, str]]:
    """The ``NAME = VALUE`` lines of the code blocks of a document."""
    indent = None
    for line in text.splitlines():
        if line.lstrip().startswith(".. code-block::"):
            indent = len(line) - len(line.lstrip())
        elif indent is not None and line.strip():
            if len(line) - len(line.lstrip()) <= indent:
                indent = None
            elif match := CONSTANT.match(line.partition("  #")[0]):
                yield match["name"], match["value"]


def value_of(text: str) -> object:
    """A number, a sum or product of numbers, or a string or bytes as Python writes them."""

    def number(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](number(node.left), number(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError(text)

    body = ast.parse(re.sub(r"(?<=\d),(?=\d{3})", "_", text), mode="eval").body
    return body.value if isinstance(body, ast.Constant) else number(body)


def in_code(name: str) -> list[object]:
    """The values that modules of the packages give a constant."""
    found = []
    for package, folder in PACKAGES.items():
        for path in sources(package):
            if re.search(rf"^_?{name}\b.*=", path.read_text(), re.MULTILINE):
                dotted = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
                module = importlib.import_module(dotted)
                found += [vars(module)[n] for n in (name, f"_{name}") if n in vars(module)]
    return found


@pytest.mark.parametrize("document", specification(), ids=lambda path: path.name)
def test_the_specification_has_the_numbers_of_the_code(document: Path) -> None:
    wrong = {}
    for name, text in constants(document.read_text()):
        values = in_code(name)
        if not values or any(value != value_of(text) for value in values):
            wrong[name] = (text, values)
    assert not wrong


def test_the_specification_names_every_limit() -> None:
    """Limits of the protocol belong to it: a second implementation needs each of them."""
    told = {name for path in specification() for name, _ in constants(path.read_text())}
    limits = importlib.import_module("cbfs_common.limits")
    assert not {name for name in vars(limits) if name.isupper()} - told


HEADING = re.compile(r"^(?P<title>[^\s=~-][^\n]{2,})\n(?:=+|-+|~+)$", re.MULTILINE)
SECTIONS_NAMED = re.compile(r"PROTOCOL\.rst, (?P<sections>[A-Z][^.;:)\"]*)")


def test_sections_of_the_specification_that_the_code_names_are_there() -> None:
    titles = {m["title"] for path in specification() for m in HEADING.finditer(path.read_text())}
    unknown = set()
    for path in sources():
        for match in SECTIONS_NAMED.finditer(" ".join(path.read_text().split())):
            for section in re.split(r", | and (?=[A-Z])", match["sections"]):
                if not any(title.startswith(section) for title in titles):
                    unknown.add((name_of(path), section))
    assert not unknown


# THREATS.rst and CLAIMS.rst

LINE = re.compile(r"\*\*(?P<id>[A-Z]\d+)\*\* ")
CLAIM = re.compile(r"^   \* - (?P<id>[A-Z]\d+)\n(?P<cells>(?:     .*\n)+)", re.MULTILINE)
SHOWN = re.compile(r"(?P<file>test_\w+)\.(?P<test>\w+)")
PROVEN = re.compile(r"(?P<model>\w+)\.pv:(?P<query>\w+)(?: with (?P<case>\S+))?(?P<no> false)?")
MARKS = {"by design", "not proven"}


def threats() -> str:
    return (ROOT / "common" / "THREATS.rst").read_text()


def claims() -> dict[str, tuple[str, str, str, list[str]]]:
    """Rows of CLAIMS.rst by id: what the adversary has, the claim, what it rests on, evidence."""
    found = {}
    for match in CLAIM.finditer((ROOT / "common" / "CLAIMS.rst").read_text()):
        cells = [" ".join(cell.split()) for cell in match["cells"].split("\n     - ")]
        has, claim, rests, evidence = cells[0].removeprefix("- "), *cells[1:]
        assert match["id"] not in found, match["id"]
        found[match["id"]] = (has, claim, rests, evidence.split(", "))
    return found


def test_every_line_of_threats_has_an_id_and_a_row_in_claims() -> None:
    """A new line takes the next number of its letter, in both documents."""
    ids = [match["id"] for match in LINE.finditer(threats())]
    assert len(ids) > 100
    items = re.findall(r"^  - .*", threats(), re.MULTILINE)
    assert not [item for item in items if not LINE.match(item.removeprefix("  - "))]
    assert len(ids) == len(set(ids))
    assert set(claims()) == set(ids)


def test_every_claim_says_what_it_rests_on_and_what_shows_it() -> None:
    there = {
        (path.stem, node.name)
        for path in sources_of_tests()
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for name, (*cells, evidence) in claims().items():
        assert all(cells), name
        shown = [line for line in evidence if line not in MARKS]
        tests = [SHOWN.fullmatch(line) for line in shown if not PROVEN.fullmatch(line)]
        assert all(test and test.groups() in there for test in tests), (name, evidence)
        assert len(shown) == len(evidence) or len(evidence) == 1, f"{name}: a mark stands alone"


def test_every_claim_that_cites_a_proof_has_it() -> None:
    """MODEL.pv:QUERY is true as the model stands, or with CASE; or false, where that is said."""
    cited = [(PROVEN.fullmatch(line), line) for *_, lines in claims().values() for line in lines]
    found = [(match, line) for match, line in cited if match]
    assert found
    for match, line in found:
        said = proven(match["model"], match["query"], match["case"] or "-")
        assert said == ("false" if match["no"] else "true"), line


def test_what_an_adversary_cannot_do_is_shown() -> None:
    """Each line of THREATS.rst under a Cannot has evidence, or says that nobody has proven it."""
    lists = re.findall(r"^Cannot\n((?:  .*\n|\n(?=  ))+)", threats(), re.MULTILINE)
    ids = [match["id"] for found in lists for match in LINE.finditer(found)]
    assert len(ids) > 40
    assert not [name for name in ids if claims()[name][-1] == ["by design"]]


# Guides for those who change the program

DOCS = ROOT / "docs"
DOCUMENTED = (ROOT, ROOT / "common", DOCS)
GUIDES = [DOCS / "architecture.rst", ROOT / "CONTRIBUTING.rst"]
CITED = re.compile(r"``(?P<path>[\w.-]+/[\w./-]*)(?:: (?P<names>[\w., ]+))?``")
QUESTIONS_LEAST = 40


def defined_in(path: Path) -> set[str]:
    """Functions, classes, their methods (as Class.method) and constants of a module."""
    found = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (
                n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            )
            found |= {f"{node.name}.{method.name}" for method in methods}
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_what_a_guide_cites_is_there(guide: Path) -> None:
    cited = [m for m in CITED.finditer(guide.read_text()) if not m["path"].startswith("./")]
    assert len(cited) > 20
    assert not {m["path"] for m in cited if not (ROOT / m["path"]).exists()}
    assert not {
        f"{m['path']}: {name}"
        for m in cited
        for name in (m["names"] or "").split(", ")
        if name and name not in defined_in(ROOT / m["path"])
    }


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_name_that_a_guide_uses_is_there(guide: Path) -> None:
    names = set(re.findall(r"``([A-Za-z_]\w*)``", guide.read_text()))
    folders = ("cbfs", "common", "server", "tests")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    words = set(re.findall(r"\w+", "\n".join(path.read_text() for path in sources)))
    assert not names - words


def test_the_guide_has_a_row_for_what_one_may_look_for() -> None:
    rows = re.findall(r"^\| [^|\n]*\?[^|\n]*\| ``", GUIDES[0].read_text(), re.MULTILINE)
    assert len(rows) >= QUESTIONS_LEAST


def test_the_picture_is_of_the_text_as_it_is() -> None:
    """./run docs draws it anew."""
    text, picture = DOCS / "architecture.dot", (DOCS / "architecture.svg").read_text()
    assert f"architecture.dot: {hashlib.sha256(text.read_bytes()).hexdigest()}" in picture
    for label in re.findall(r"<b>([\w.]+)</b>", text.read_text()):
        assert f">{label}</text>" in picture
        places = (ROOT / "cbfs" / label, ROOT / "server" / label)
        assert any(place.exists() for place in places), label


# Manual pages and programs


def programs() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.entry_points"]["console_scripts"].split("\n")
    return [line.partition("=")[0].strip() for line in lines if line.strip()]


@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[1-8]")), ids=lambda p: p.name)
def test_a_manual_page_renders_without_warnings(page: Path) -> None:
    rendered = subprocess.run(
        ["groff", "-man", "-ww", "-t", "-z", "-Tutf8", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not rendered.stderr
    headings = re.findall(r"^\.SH \"?([A-Z ]+?)\"?$", page.read_text(), re.MULTILINE)
    wanted = {"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXIT STATUS", "EXAMPLES"}
    assert wanted <= set(headings)


def test_the_manual_page_has_every_setting() -> None:
    page = (ROOT / "man" / "mount.cbfs.8").read_text()
    assert re.findall(r'^\.BR (\w+) " = ', page, re.MULTILINE) == list(KEYS)


def test_every_program_has_a_manual_page() -> None:
    pages = {page.stem for page in (ROOT / "man").glob("*.[1-8]")}
    assert set(programs()) <= pages


@pytest.mark.parametrize("program", programs())
def test_a_program_says_how_it_is_used(program: str) -> None:
    script = Path(sysconfig.get_path("scripts")) / program
    run = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.lower().startswith("usage: " + program)
    assert "example" in run.stdout.lower()


def test_documents_lead_somewhere() -> None:
    """Links of the documents to files of the project."""
    broken = []
    for document in (path for folder in DOCUMENTED for path in folder.glob("*.rst")):
        for target in re.findall(r"<((?!https?:|mailto:)[\w./-]+\.\w+)>`_", document.read_text()):
            if not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert not broken


def test_the_set_up_says_how_it_is_used() -> None:
    script = ROOT / "run"
    for arguments, code in ((["--help"], 0), ([], 2), (["nonsense"], 2)):
        run = subprocess.run(
            ["/bin/sh", script, *arguments], capture_output=True, text=True, check=False
        )
        assert run.returncode == code
        assert "./run demo" in run.stdout + run.stderr


def test_every_package_is_installed() -> None:
    """What is left out of setup.cfg is there in the source, and not for who installs a wheel."""
    text = (ROOT / "setup.cfg").read_text()
    listed = re.findall(
        r"^    (cbfs[\w.]*)$", text.split("packages =")[1].split("package_dir")[0], re.M
    )
    roots = {"cbfs": ROOT, "cbfs_server": ROOT / "server", "cbfs_names": ROOT / "server"}
    roots |= {"cbfs_host": ROOT / "common", "cbfs_common": ROOT / "common"}
    there = {
        ".".join(file.parent.relative_to(root).parts)
        for name, root in roots.items()
        for file in (root / name).rglob("__init__.py")
    }
    assert set(listed) == there
