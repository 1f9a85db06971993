"""Worlds whose power fails, one recording after the other, for long: see ``tests/power``."""

import tempfile
import time
from pathlib import Path

from tests.power.__main__ import LOST, run
from tests.power.box import missing

RECORD = {"life": 6, "first": 0, "signing": 5}
"""Seconds of a recording."""

CHECK = 60
"""Seconds in which what is left of one is looked at."""

LIMIT = 1_800.0


def soak(seconds: float, seed: int) -> bool:
    """Whether nothing was lost, and the control lost something."""
    if missing():
        print(f"left out: {missing()}")
        return True
    end, good = time.monotonic() + seconds, True
    while True:
        for world, record in RECORD.items():
            with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
                options = ("--record", record, "--check", CHECK, "--seed", seed)
                code, said = run(world, Path(place), *options, limit=LIMIT)
            print(f"seed {seed}: {said}", flush=True)
            good = good and code == 0
            if time.monotonic() > end:
                return good and _control(seed)
        seed += 1


def _control(seed: int) -> bool:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        options = ("--record", 3, "--fault", "client without metasync", "--seed", seed)
        code, said = run("life", Path(place), *options, limit=LIMIT)
    print(f"control: {said}", flush=True)
    return code == LOST
