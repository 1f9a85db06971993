"""A line of counts in the log, once an hour: what a server has done since the last one."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import trio

from cbfs_common.errors import CbfsError, in_words

PERIOD: Final = 3_600.0
"""Seconds between two lines."""

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # also where only warnings are logged


async def tell_counts(figures: Callable[[], Any]) -> None:
    """Log a line every PERIOD, until cancelled. ``figures`` makes a dataclass of numbers, which
    are told as they are, and of counts since the start, of which the difference is told."""
    before: dict[tuple[str, str], int] = {}
    while True:
        await trio.sleep(PERIOD)
        try:
            line, before = words_of(figures(), before)
        except (CbfsError, OSError) as error:
            _log.error("no counts: %s", in_words(error))
        else:
            _log.info("the last hour: %s", line)


def words_of(
    figures: Any, before: dict[tuple[str, str], int]
) -> tuple[str, dict[tuple[str, str], int]]:
    """The line, and the counts that the next one is to be told from."""
    words, counts = [], dict[tuple[str, str], int]()
    for each in fields(figures):
        value = getattr(figures, each.name)
        if isinstance(value, tuple) and not each.name.endswith("_per_minute"):
            for kind, number in value:
                counts[each.name, kind] = number
                new = number - before.get((each.name, kind), 0)
                if new:
                    words.append(f"{each.name.removesuffix('_total')} {kind} {new}")
        elif isinstance(value, int) and each.name != "uptime":
            words.append(f"{each.name} {value}")
    return ", ".join(words), counts
