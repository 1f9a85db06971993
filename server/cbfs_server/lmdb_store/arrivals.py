"""The newcomers who have come lately, as far as this process knows: what one has to pay, and which
proofs of work were used. Lost with the process; proofs of before count once more then.
"""

import logging
import time
from collections.abc import Callable

from cbfs_common.names.config import Registration
from cbfs_common.wire.requests import Code
from cbfs_server.limits import NEWCOMERS_FREE
from cbfs_server.store.operations import MakeAccount, Proof, Rule
from cbfs_server.store.pricing import level, price

_log = logging.getLogger(__name__)


class LatelyArrived:
    """``running``: seconds of a clock that is never set. One thread changes this, by ``admits``,
    and another one, by ``not_made``; anybody may look."""

    def __init__(self, running: Callable[[], float] = time.monotonic) -> None:
        self._running = running
        self._filled = 0.0, running()
        self._spent: dict[tuple[bytes, int], tuple[int, MakeAccount]] = {}
        """Proofs that were used: their windows, and by which request."""
        self._dear = False

    def price(self, rule: Rule, left: int) -> int:
        """The zero bits that a proof must have when so many accounts are ``left``; 0: none is
        needed."""
        return price(self._level(left), left, rule.work)

    def admits(self, asked: MakeAccount, left: int) -> Code | None:
        """Why a newcomer without an invite has to wait; None: the account is to be made, and
        counts. One request may be asked about again, when its transaction was not made."""
        if asked.rule.registration is Registration.INVITE:
            return Code.INVITE_NEEDED
        proof, now = asked.ticket.proof, self.price(asked.rule, left)
        if now and (proof is None or proof.bits < now or self._by_another(asked, proof)):
            return Code.WORK_NEEDED
        self._filled = self._level(left) + 1, self._running()
        self._tell(asked.rule, left - 1)
        self.spent(asked)
        return None

    def _by_another(self, asked: MakeAccount, proof: Proof) -> bool:
        _, by = self._spent.get((asked.user, proof.number), (0, asked))
        return by is not asked

    def spent(self, asked: MakeAccount) -> None:
        """An account is to be there by this proof, which makes no other one: at once, as one
        transaction may make several of a user, and delete all but the last."""
        proof = asked.ticket.proof
        if proof is not None:
            if len(self._spent) > NEWCOMERS_FREE:
                known = tuple(self._spent.items())
                self._spent = {p: u for p, u in known if abs(proof.newest - u[0]) <= 1}
            self._spent[asked.user, proof.number] = proof.window, asked

    def not_made(self, asked: MakeAccount) -> None:
        """The account is not on the disk: if the proof was spent for it, it is good again."""
        proof = asked.ticket.proof
        if proof is not None:
            spent = asked.user, proof.number
            if self._spent.get(spent, (0, None))[1] is asked:
                self._spent.pop(spent, None)

    def _level(self, left: int) -> float:
        filled, at = self._filled
        return level(filled, self._running() - at, left)

    def _tell(self, rule: Rule, left: int) -> None:
        """Once each time that it becomes so."""
        if (self.price(rule, left) > rule.work) != self._dear:
            self._dear = not self._dear
            _log.warning(
                "%s",
                "many make accounts: newcomers have to work for one"
                if self._dear
                else "no more make accounts than usual",
            )
