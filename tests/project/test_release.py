"""What goes into a package: see ``release/package.sh``."""

import configparser
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from release.repacked import repacked

ROOT = Path(__file__).parents[2]
COMPARE = """
from release.completions import FOLDER, files
known = {p.relative_to(FOLDER).as_posix(): p.read_text() for p in FOLDER.rglob("*") if p.is_file()}
made = dict(files())
print(*sorted(name for name in known.keys() | made if known.get(name) != made.get(name)))
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse writes help otherwise")
def test_completions_are_those_of_the_options_as_they_are() -> None:
    """./run completions writes them anew."""
    path = os.pathsep.join(str(ROOT / name) for name in (".", "server", "common"))
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_each_file_of_a_package_is_there() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = list(settings["options.data_files"].values())
    assert len(patterns) > 5
    assert not [pattern for pattern in patterns if not list(ROOT.glob(pattern))]


def archive(names: list[str], when: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.uname = len(name), when, when, str(when)
            file.addfile(member, io.BytesIO(name.encode()))
    return made.getvalue()


def test_an_sdist_of_the_same_files_has_the_same_bytes() -> None:
    """In whatever order, when and by whom it was made."""
    first = repacked(archive(["b", "a"], 1), 5)
    assert first == repacked(archive(["a", "b"], 2), 5)
    assert first != repacked(archive(["a", "c"], 2), 5)
    with tarfile.open(fileobj=io.BytesIO(first)) as file:
        assert [(each.name, each.mtime, each.uid) for each in file] == [("a", 5, 0), ("b", 5, 0)]
