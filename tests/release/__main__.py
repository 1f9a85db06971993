"""Tests the package in each distribution, or in those that are named: as root, and with the
mirrors of Debian and Ubuntu, minutes."""

import sys
import tempfile
import traceback
from pathlib import Path

from tests.release.building import built
from tests.release.steps import Steps
from tests.release.systems import DISTRIBUTIONS, ROOT, Distribution, bare, prepare, run, workshop
from tests.release.using import used
from tests.release.wheel import set_up


def tried(kind: Distribution, tree: Path) -> None:
    """Build the package for a distribution and use it there. Raises Failed, AssertionError."""
    steps = Steps(kind.suite)
    with steps.step("two bare systems"):
        prepare(kind)
    release = built(kind, tree, steps)
    name, data = release.named(".deb")
    with bare(kind) as system:
        used(system, name, data, steps)
    name, data = release.named(".whl")
    with workshop(kind) as system:
        set_up(system, name, data, steps)


def main(names: list[str]) -> int:
    """Test them; the exit code."""
    known = {each.suite: each for each in DISTRIBUTIONS}
    if unknown := sorted(set(names) - set(known)):
        print(f"no such distribution: {' '.join(unknown)}; there are {' '.join(known)}")
        return 2
    # Whatever happens, this is gone with the last process in the namespace.
    run("mount", "-t", "tmpfs", "-o", "mode=755", "none", tempfile.gettempdir())
    tree = Path(tempfile.mkdtemp())
    run("sh", "-c", f"git -C '{ROOT}' archive HEAD | tar -x -C '{tree}'")
    failed = 0
    chosen = [known[name] for name in names or known]
    for kind in chosen:
        try:
            tried(kind, tree)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"{kind.suite}: failed", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
