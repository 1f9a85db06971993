"""How long work takes that a name directory asks for, as it is told before it begins."""

import pytest

from cbfs.names.directory import _about


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "about a second"),
        (1.4, "about a second"),
        (1.6, "about 2 seconds"),
        (119.0, "about 119 seconds"),
        (120.0, "about 2 minutes"),
        (7_200.0, "about 2 hours"),
        (864_000.0, "about 10 days"),
    ],
)
def test_a_time_is_told_as_one_would_say_it(seconds: float, told: str) -> None:
    assert _about(seconds) == told
