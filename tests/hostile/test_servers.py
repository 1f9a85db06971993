"""No server and no directory stops a client for longer than it lies."""

from hypothesis.stateful import run_state_machine_as_test

from tests.hostile.servers import Servers
from tests.hostile.test_senders import BOUNDED


def test_no_server_stops_a_client_for_longer_than_it_lies() -> None:
    run_state_machine_as_test(Servers, settings=BOUNDED)
