"""``requirements.lock``: what the program is installed with, each file of it by its hash."""

import configparser
import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cbfs_common.version import VERSION

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(
    r"^(?P<requirement>[A-Za-z0-9][^\\\n]*?) \\\n(?P<hashes>(?:    --hash=.*\n?)+)", re.M
)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def asked() -> list[Requirement]:
    """What setup.cfg asks for, with PostgreSQL."""
    found = settings()
    both = found["options"]["install_requires"], found["options.extras_require"]["postgres"]
    return [
        Requirement(line)
        for text in both
        for line in text.strip().splitlines()
        if not line.startswith("#")
    ]


def locked(text: str) -> dict[str, Requirement]:
    """The packages of a lock file by name. Raises ValueError for a line that is none."""
    found: dict[str, Requirement] = {}
    for match in ENTRY.finditer(text):
        if not all(HASH.fullmatch(each.strip(" \\")) for each in match["hashes"].splitlines()):
            raise ValueError(match["requirement"])
        requirement = Requirement(match["requirement"])
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise ValueError(match["requirement"])
        found[canonicalize_name(requirement.name)] = requirement
    rest = ENTRY.sub("", text).splitlines()
    if wrong := [line for line in rest if line and not line.startswith("#")]:
        raise ValueError(wrong[0])
    return found


def lock() -> dict[str, Requirement]:
    return locked((ROOT / "requirements.lock").read_text())


def closure(first: list[Requirement]) -> Iterator[Requirement]:
    """All that is asked for, by what is asked for, on this machine."""
    todo, seen = list(first), set()
    while todo:
        each = todo.pop()
        if str(each) in seen:
            continue
        seen.add(str(each))
        yield each
        for line in requires(each.name) or []:
            below = Requirement(line)
            extras = {"", *each.extras}
            if not below.marker or any(below.marker.evaluate({"extra": e}) for e in extras):
                todo.append(below)


def test_the_lock_has_what_setup_cfg_asks_for() -> None:
    """And what that asks for, in versions that all of them take."""
    versions = {name: next(iter(each.specifier)).version for name, each in lock().items()}
    wanted = list(closure(asked()))
    assert len(wanted) > len(asked()) > 10
    assert not [
        str(each)
        for each in wanted
        if canonicalize_name(each.name) not in versions
        or not each.specifier.contains(versions[canonicalize_name(each.name)], prereleases=True)
    ]


def test_what_is_installed_is_what_is_locked() -> None:
    """``./run`` installs by the lock file with ``--require-hashes``, before all else."""
    here = {
        name: each for name, each in lock().items() if not each.marker or each.marker.evaluate()
    }
    names = {canonicalize_name(each.name) for each in closure(asked())}
    assert names <= set(here)
    assert not {
        name: version(name) for name in here if not here[name].specifier.contains(version(name))
    }


@pytest.mark.parametrize(
    "text",
    [
        "trio==0.35.0\n",
        "trio>=0.35 \\\n    --hash=sha256:" + "0" * 64 + "\n",
        "trio==0.35.0 \\\n    --hash=md5:" + "0" * 32 + "\n",
        "-e .\n",
    ],
)
def test_a_line_that_locks_nothing_is_found(text: str) -> None:
    with pytest.raises(ValueError):
        locked(text)


def test_one_place_has_the_version() -> None:
    """And the newest of CHANGES.rst is this one, with its day."""
    assert settings()["metadata"]["version"] == "attr: cbfs_common.version.VERSION"
    changes = (ROOT / "CHANGES.rst").read_text()
    titles = re.findall(r"^(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)\n-+$", changes, re.MULTILINE)
    assert titles[0][0] == VERSION
    assert titles == sorted(titles, key=lambda title: title[1], reverse=True)
    assert re.findall(r"^\d+\.\d+.*\n---", changes, re.MULTILINE) and len(titles) > 1


def test_documents_of_a_release_are_linked() -> None:
    readme = (ROOT / "README.rst").read_text()
    for name in ("CHANGES.rst", "SECURITY.rst", "CONTRIBUTING.rst"):
        assert f"<{name}>`_" in readme
        assert (ROOT / name).exists()
    minor = ".".join(VERSION.split(".")[:2])
    assert f"This is version {minor}, " in readme
    pages = [page.read_text().splitlines()[0] for page in (ROOT / "man").glob("*.[1-8]")]
    assert pages
    assert not [first for first in pages if f'"cbfs {minor}"' not in first]
