"""``./run fuzz hostile``: the machines of this directory for FUZZ_S seconds (60), in turn, with
other seeds each time. What one finds ends it with the steps that led there."""

import os
import sys
import time

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.hostile.senders import Senders
from tests.hostile.servers import Servers

MACHINES: tuple[type[RuleBasedStateMachine], ...] = (Senders, Servers)
LONG = settings(
    max_examples=3,
    stateful_step_count=25,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def main() -> int:
    """The entry point."""
    end = time.monotonic() + float(os.environ.get("FUZZ_S", "60"))
    rounds = 0
    while time.monotonic() < end:
        for machine in MACHINES:
            run_state_machine_as_test(machine, settings=LONG)
        rounds += 1
        print(f"hostile: {rounds * LONG.max_examples} worlds of each machine", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
