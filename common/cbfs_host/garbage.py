"""How often a program that stays looks for cycles among its objects."""

import gc
from typing import Final

GARBAGE_OBJECTS: Final = 5_000, 5, 200
"""Objects more than before until cycles are looked for among those; how often that is done until it
is done among all that were there then, and how often that until among all that there are. Nobody is
answered meanwhile: with these numbers for some milliseconds, and hardly ever for more."""


def look_less_for_cycles() -> None:
    """To be called when what stays for good is there, which is not looked at any more. Requests and
    listings make very many objects, and what holds them is no cycle: looking for cycles among them
    as often as Python does by itself takes up to a quarter of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_OBJECTS)
