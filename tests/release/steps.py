"""What a test of the package has done, and how long each step took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps in one distribution, each printed when it is done."""

    where: str

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Print what was done, and its seconds."""
        begun = time.monotonic()
        yield
        print(f"{self.where:<9} {time.monotonic() - begun:6.1f} s  {what}", flush=True)
