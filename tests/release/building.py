"""Building a release in a system."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.release.steps import Steps
from tests.release.systems import ROOT, Distribution, System, run, workshop


@dataclass(frozen=True, slots=True)
class Release:
    """The files of a release, by their names, as one distribution builds them."""

    files: dict[str, bytes]

    def named(self, ending: str) -> tuple[str, bytes]:
        """(name, content) of the one file that ends so."""
        (found,) = ((name, data) for name, data in self.files.items() if name.endswith(ending))
        return found


def built(kind: Distribution, tree: Path, steps: Steps) -> Release:
    """The release of a tree: built twice, to the same bytes, and judged by lintian. Raises Failed,
    AssertionError."""
    when = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    with workshop(kind) as system:
        with steps.step("built"):
            first = _files(system, tree, when)
        with steps.step("built again"):
            again = _files(system, tree, when)
        other = sorted(name for name in first | again if first.get(name) != again.get(name))
        assert not other, f"other bytes the second time: {other}"
        release = Release(first)
        with steps.step("lintian is content"):
            name, data = release.named(".deb")
            (system.place / "tmp" / name).write_bytes(data)
            system.run("lintian", "--allow-root", "--fail-on", "error,warning", f"/tmp/{name}")
    return release


def _files(system: System, tree: Path, when: str) -> dict[str, bytes]:
    place = system.place / "build"
    shutil.copytree(tree, place / "source", symlinks=True)
    script = "/build/source/release/package.sh"
    system.run("sh", script, "/build/source", "/build/out", "deb", SOURCE_DATE_EPOCH=when)
    found = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
    shutil.rmtree(place)
    return found
