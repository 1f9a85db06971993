"""``python -m tests.power WORLD PLACE``: record a world, cut its power at many moments, and check.

In a process of its own, because it forks: it must have one thread. 0 when nothing was lost, LOST
when something was. ``run`` starts it."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.power.box import die_with_parent
from tests.power.cuts import WORLDS, Outcome, Recorded, try_cuts, try_erasures
from tests.power.programs import FAULTS

LOST = 3


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.power", description=__doc__)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("place", type=Path, help="a directory in memory, for what is recorded")
    parser.add_argument("--record", type=float, default=4.0, help="seconds of a recording")
    parser.add_argument("--check", type=float, default=0.0, help="seconds of checks")
    parser.add_argument("--least", type=int, default=5, help="as many checks at least")
    parser.add_argument("--erasures", type=int, default=100, help="disks to be searched for keys")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", choices=FAULTS, default="", help="what is taken away")
    parser.add_argument("--lying", action="store_true", help="the disks only say that they flush")
    options = parser.parse_args()
    die_with_parent()
    place = options.place / f"{options.world}-{options.seed}"
    recorded = Recorded(place, options.world, options.record, options.seed, options.fault)
    outcome, end = Outcome(), time.monotonic() + options.check
    if options.world == "life":
        try_erasures(recorded, outcome, options.erasures)
    try_cuts(
        recorded,
        outcome,
        lambda now: now.checks >= options.least and time.monotonic() > end,
        flushing=not options.lying,
    )
    print(f"{options.world}: {outcome.report()}")
    for wrong in outcome.wrong:
        print(wrong)
    return LOST if outcome.wrong else 0


def run(world: str, place: Path, *options: object, limit: float) -> tuple[int, str]:
    """(exit code, what it said)"""
    command = [sys.executable, "-m", "tests.power", world, str(place), *map(str, options)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
