"""How much one account may have of the room that there is.

That becomes smaller the more there is in the store: a SHARE of all the room while that is empty,
and with the square of the part that is left. ``n`` accounts, each of which takes all that it can,
leave about 1 in 1 + n / SHARE; a share that only follows what is left would leave (1 - 1 / SHARE)
to the n-th. (The dynamic thresholds of switches are such; they take back what was given.)
"""

from dataclasses import dataclass

from cbfs_server.limits import BLOBS_LEAVE, ENVELOPE_COST, NEWCOMERS_SHARE, SHARE


@dataclass(slots=True)
class Room:
    """``left``: bytes that may be taken in, of ``all`` that there could be. Each change of a
    transaction takes off what it adds; what it deletes counts from the next one on."""

    left: int
    all: int

    def share(self, cost: int) -> int:
        """How many things of that ``cost`` an account may have, as far as there is room."""
        return self.left * self.left // (cost * SHARE * self.all)

    def fits(self, held: int) -> bool:
        """Whether an account may have ``held`` bytes, of its mail or of its prekeys."""
        return held * SHARE * self.all <= self.left * self.left

    def takes_blobs(self, held: int) -> bool:
        """Whether an account may have ``held`` bytes of blobs, which leave the rest to mail."""
        return self.left * BLOBS_LEAVE >= self.all and self.fits(held)

    @property
    def full(self) -> bool:
        """Not one envelope fits."""
        return not self.fits(ENVELOPE_COST)

    @property
    def tight(self) -> bool:
        """So little is left that newcomers wait."""
        return self.left < self.all // NEWCOMERS_SHARE
