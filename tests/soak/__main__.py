"""``./run soak [PART...]``: long runs under load and faults. SOAK_S: seconds for each part;
SOAK_CASES: which of a cluster's, between semicolons. Blobs take as long as SOAK_BLOB_MIB of file
take."""

import argparse
import os
import sys
import time
from collections.abc import Callable

from tests.soak import blobs, cluster, files, hub, kills, power, programs


def _kills(seconds: float) -> bool:
    account = kills.soak(seconds, int(os.environ.get("SOAK_SEED", "1")))
    print(account.report(), flush=True)
    for what in (*account.lost[:20], *account.doubled[:20], *account.strange[:20]):
        print(f"  {what}")
    return not account.lost and not account.doubled and not account.strange


def _programs(seconds: float) -> bool:
    outcome = programs.soak(seconds)
    print(outcome.report(), flush=True)
    for what in outcome.wrong[:20]:
        print(f"  {what}")
    return not outcome.wrong


def _files(seconds: float) -> bool:
    outcome = files.soak(seconds, int(os.environ.get("SOAK_SEED", "1")))
    print(outcome.report(), flush=True)
    for what in outcome.wrong:
        print(f"  {what}")
    return not outcome.wrong


def _blobs(_seconds: float) -> bool:
    size = int(os.environ.get("SOAK_BLOB_MIB", "4096")) << 20
    outcome = blobs.soak(size, int(os.environ.get("SOAK_SEED", "1")))
    print(outcome.report(), flush=True)
    for what in outcome.wrong:
        print(f"  {what}")
    return not outcome.wrong


def _power(seconds: float) -> bool:
    return power.soak(seconds, int(os.environ.get("SOAK_SEED", "1")))


def _cluster(seconds: float) -> bool:
    said = os.environ.get("SOAK_CASES")
    cases = tuple(said.split(";")) if said else tuple(cluster.CASES)
    found = cluster.soak(seconds / len(cases), int(os.environ.get("SOAK_SEED", "1")), cases)
    return all(each.right for each in found)


def _hub(seconds: float) -> bool:
    outcome = hub.soak(seconds, int(os.environ.get("SOAK_SEED", "1")))
    print(outcome.report(), flush=True)
    for what in outcome.wrong[:20]:
        print(f"  {what}")
    return not outcome.wrong


PARTS: dict[str, Callable[[float], bool]] = {
    "kills": _kills,
    "programs": _programs,
    "files": _files,
    "blobs": _blobs,
    "power": _power,
    "cluster": _cluster,
    "hub": _hub,
}
"""A part runs for about so many seconds, prints its figures, and says whether they are right."""


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(
        prog="./run soak",
        description="Runs each part for SOAK_S seconds (environment; default 600).",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"there is no part {name}: they are {', '.join(PARTS)}")
    seconds = float(os.environ.get("SOAK_S", "600"))
    failed = []
    for name in options.parts or PARTS:
        started = time.monotonic()
        print(f"== {name}, {seconds:.0f} s", flush=True)
        if not PARTS[name](seconds):
            failed.append(name)
        print(f"== {name} took {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
