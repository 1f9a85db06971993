"""Making the account at the home server, with what that asks of newcomers."""

import math
from collections.abc import Callable
from pathlib import Path

import trio

from cbfs.context import Context
from cbfs.network.link import Link, ServerRefused, request
from cbfs_common.errors import CbfsError, in_words
from cbfs_common.newcomers import Search, parse_server_invite
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_common.wire.requests import Code, CreateAccount, GetTerms, NewcomerTerms

LOOK = 60.0
"""Seconds of work between two looks at the price, which also keep the connection."""

SLICE = 8_192
"""Tries that cannot be cut off: some 0.05 s."""

BITS_MAX = 36
ALONE_BITS_MAX = 26
"""Zero bits of a proof that a client works for when its user waits, and when it makes an account
anew by itself: four days, and six minutes."""

AGAIN_PAUSE = 3_600.0
"""Seconds from one account that was made anew to the next: a server may forget each of them."""

TOLD = (
    "the account at the home server had ended, as it was not used for long, and was made anew"
    " (what waited there is gone: those who still have it offer it again)"
)

INVITE_FILE_MAX = 4_096

_ASK = "ask whoever runs it for another"


class TooMuchWork(CbfsError):
    """The server asks for more than a client does."""

    def __init__(self) -> None:
        super().__init__(
            "the server asks newcomers for too much work, as many come",
            "it asks for less when fewer do; or ask whoever runs it for an invite, and say: cbfs"
            " sign-up --server-invite FILE",
        )


def read_server_invite(path: Path, server: Address) -> bytes:
    """The invite (INVITE_SIZE) in a file. Raises CbfsError for one that is not for this server: it
    is not used up then."""
    try:
        with path.open(encoding="ascii") as file:
            found = parse_server_invite(file.read(INVITE_FILE_MAX))
    except (OSError, UnicodeDecodeError) as error:
        raise CbfsError(f"cannot read an invite from {path}", in_words(error)) from error
    if found.server != server.key:
        raise CbfsError(f"the invite in {path} is for another server", _ASK)
    return found.invite


class Again:
    """Makes the account at the home server anew that has ended there. That is between the client
    and its own server: no envelope leaves by it, and no session ends. ``say`` is told what takes
    long."""

    def __init__(self, context: Context, say: Callable[[str], None]) -> None:
        self._context = context
        self._say = say
        self._not_before = -math.inf

    async def make(self, link: Link, refused: ServerRefused) -> None:
        """On a connection on which the server has said so by ``refused``, which is raised when it
        was for something else, or lately. Raises what ``sign_up`` raises. The mark and the prekeys
        are to be put there as in a new one."""
        context, now = self._context, trio.current_time()
        if refused.code is not Code.NO_ACCOUNT or now < self._not_before:
            raise refused
        self._not_before = now + AGAIN_PAUSE
        user = context.account.user_id
        await sign_up(link, user, context.random, say=self._say, most=ALONE_BITS_MAX)
        self.tell()

    def tell(self) -> None:
        """Tell the user that it was made anew."""
        self._context.problems.set("account", TOLD)


async def sign_up(
    link: Link,
    user: bytes,
    random: Random,
    invite: bytes = b"",
    say: Callable[[str], None] = lambda _: None,
    most: int = BITS_MAX,
) -> None:
    """Make the account of ``user``, the key (32) by which the server knows the client; again is no
    error. May work for long: ``say`` is told then. ``invite``: INVITE_SIZE, or empty, and then not
    used up when nothing is asked for. ``most``: zero bits that are worked for.
    Raises what ``request`` raises, and TooMuchWork."""
    code = await _ask(link, CreateAccount())
    if code is None:
        return
    if invite:
        if await _ask(link, CreateAccount(invite)) is not None:
            raise CbfsError("the server does not take the invite: it was used, or is too old", _ASK)
        return
    if code is Code.INVITE_NEEDED:
        raise ServerRefused(code)
    work = Work(user, random, say, most)
    while code is not None:
        code = await _ask(link, await work.proof(await request(link, GetTerms())))


async def _ask(link: Link, asked: CreateAccount) -> Code | None:
    """None when there is an account, else what the server asks for."""
    try:
        await request(link, asked)
    except ServerRefused as error:
        if error.code not in (Code.WORK_NEEDED, Code.INVITE_NEEDED):
            raise
        return error.code
    return None


class Work:
    """A newcomer's work for a server, whose price may change meanwhile."""

    def __init__(
        self, user: bytes, random: Random, say: Callable[[str], None], most: int = BITS_MAX
    ) -> None:
        self._user = user
        self._most = most
        self._random = random
        self._say = say
        self._search: Search | None = None
        self._bits = 0
        self._worked = 0.0

    async def proof(self, terms: NewcomerTerms) -> CreateAccount:
        """The best proof after at most LOOK seconds of work, which may not be enough: look at the
        terms again. One that was not enough before is not given again. Raises TooMuchWork, and
        ServerRefused where an invite is needed."""
        if terms.invited:
            raise ServerRefused(Code.INVITE_NEEDED)
        if terms.bits > self._most:
            raise TooMuchWork
        search = self._search
        if search is None or search.challenge != terms.challenge or search.bits >= terms.bits:
            start = int.from_bytes(self._random.token(8), "big")
            search = self._search = Search(terms.challenge, self._user, start)
        end = trio.current_time() + LOOK
        while trio.current_time() < end:
            begun = trio.current_time()
            if await trio.to_thread.run_sync(search.look, terms.bits, SLICE):
                break
            self._worked += trio.current_time() - begun
            self._tell(terms.bits, search)
        return CreateAccount(b"", search.challenge, search.best)

    def _tell(self, bits: int, search: Search) -> None:
        """Once for each price."""
        if bits != self._bits:
            self._bits = bits
            seconds = 2.0**bits * self._worked / search.tried
            self._say(f"the server asks newcomers for work: about {_words(seconds)}")


def _words(seconds: float) -> str:
    for size, unit in ((3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} s"
