"""No person stops a mailbox, whatever they send."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.hostile.senders import Senders

BOUNDED = settings(
    max_examples=8,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_no_person_stops_a_mailbox() -> None:
    run_state_machine_as_test(Senders, settings=BOUNDED)
