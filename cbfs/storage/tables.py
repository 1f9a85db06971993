"""The tables of the client's store, with what their records are, the keys of what there is few of,
and where a record is in LMDB: its place, 16 bytes, by which its table is known.

    of WHOLE:       1 | group 4 | number of the table u8 | that XOR 255 | random 9
    of OF_SEGMENT:  2 | KDF(blind key, "cbfs1 segment", segment u32, 6) | drawn 8 | number u8
    else:           number of the table u8 | drawn 15
    drawn:          KDF(secret, "cbfs1 lookup", table | record key, its size)

Before them, in the same table of LMDB's, are the nodes of the tree of keys, and the state.
"""

from collections.abc import Callable
from enum import Enum

from cbfs_common.primitives import kdf


class Table(Enum):
    """The tables, with what their record keys are. New ones come last: they are numbered."""

    META = b"meta"  # see ``Meta``
    SESSIONS = b"sessions"  # session id 16
    PREKEYS = b"prekeys"  # prekey id 16
    PEERS = b"peers"  # key_part(name)
    CONVERSATIONS = b"conversations"  # conversation id 16
    MESSAGES = b"messages"  # conversation id 16 | serial u64
    LISTINGS = b"listings"  # conversation id 16 | serial u64: see ``cbfs.messages.listings``
    MESSAGE_IDS = b"message-ids"  # conversation id 16 | message id 16, or what tells a copy
    FILE_NAMES = b"file-names"  # see ``cbfs.messages.name_pages``
    DOUBTED = (
        b"doubted"  # session id 16 | conversation id 16 | serial u64: see messages.marks.doubts
    )
    DROPPED = b"dropped"  # conversation id 16 | message id 16: thrown away, and not asked for
    GONE = b"gone"  # conversation id 16 | serial u64 | index u32: was removed from a folder
    PARTS = b"parts"  # key_part(conversation id, message hash): a file that is still arriving
    ENDS = b"ends"  # see ``cbfs.messages.lifetimes``
    QUEUE = b"queue"  # key_part(recipient) 16 | sequence u64 [| part u32]
    NOTE_ITEMS = b"owed"  # see ``cbfs.messages.queues.note_queue``
    REQUESTS = b"requests"  # key_part(sender) 16 | sequence u64: what strangers have sent
    INBOX = b"inbox"  # sequence u64 | key_part(envelope): envelopes that wait for a look-up
    COVER = b"dummies"  # envelope id 16: sent to oneself, on its way
    QUARANTINE = b"quarantine"  # sequence u64 ...: envelopes that could not be read
    CONTENT = b"content"  # content id u64 | chunk u32
    HELD = b"held"  # content id u64: how many refer to it beside one
    INDEX = b"index"  # segment u32: see ``cbfs.messages.search_index``
    TERMS = b"terms"  # segment u32 [| number in it u8]
    NODES = b"nodes"  # inode u64: files and folders of outbox/, ui_info/, tmp/ and mail/
    MAIL = b"mail"  # segment u32 [| 1]: see ``cbfs.messages.marks.mail_notes``, ``mail_pages``
    BLOBS = b"blobs"  # content id u64: see ``cbfs.messages.queues.blobs``

    def __init__(self, name: bytes) -> None:
        self.bound = bytes([len(name)]) + name

    __hash__ = object.__hash__  # that of Enum is felt: every record is looked for in some tables


WHOLE = frozenset(
    (
        *(Table.META, Table.SESSIONS, Table.PREKEYS, Table.PEERS, Table.CONVERSATIONS),
        *(Table.PARTS, Table.ENDS, Table.QUEUE, Table.NOTE_ITEMS, Table.REQUESTS, Table.DOUBTED),
        *(Table.INBOX, Table.COVER, Table.QUARANTINE, Table.NODES, Table.HELD, Table.BLOBS),
    )
)
"""Those whose records have random places, and whose keys stand in memory."""

PASSED_OVER = Table.QUARANTINE
"""That of them in which a damaged record is as good as none: it is of an envelope that could not be
read anyway, and anybody may fill the table. In all others it may be whatever is looked for."""

OF_SEGMENT = frozenset((Table.INDEX, Table.TERMS, Table.MAIL))
"""Those whose keys begin with the number of a segment, u32: of one there are up to 66 records, of
which two change with each message while it is the newest."""

OF_CONVERSATION = frozenset(
    (
        *(Table.MESSAGES, Table.LISTINGS, Table.MESSAGE_IDS),
        *(Table.FILE_NAMES, Table.DROPPED, Table.GONE),
    )
)
"""Those whose records belong to the conversation that their keys begin with, which must be
there."""


class Meta(bytes, Enum):
    """All keys of Table.META: the first have one record each; those that end with a space begin
    many, and what they are of follows them."""

    ACCOUNT = b"account"  # the account itself
    ACCOUNT_NEXT = b"account next"  # the account as it is to be when its new profile stands
    ALARM = b"alarm"  # what somebody else has made of one's own name
    BEGUN_ANEW = b"begun anew"  # when all sessions were lost last, and with whom
    BUNDLE = b"bundle"  # the proof of one's own name that messages carry
    CLOCK = b"time"  # what was seen of the clock
    DIRECTORY = b"directory"  # the newest head of the name directory
    ENDS = b"ends"  # the hours in which something ends
    GRANT = b"grant"  # by what one may invite others at the home server, where it gives that
    HUB = b"hub"  # what tells the account from others, for machines that mount it
    LEAVING = b"leaving"  # the move of the account to another computer
    LINE = b"line"  # the drop (32) of the line by which one was invited, and its record when used
    LISTED = b"listed with people"  # is there when what is made again of messages has been
    MARK = b"mark"  # what tells this copy of the account from others, by the home server
    NAME_ASKED_FOR = b"name asked for"  # from before the directory is told until it has refused
    OWN = b"own"  # the entry of one's own name: the last step of making an account
    OWN_NEXT = b"own next"  # the change of it that is on its way
    OWN_SERVER = b"own server"  # the address of the server that a mount runs itself
    PLACE = b"place"  # what tells this account directory from a copy of it
    PREKEYS_AHEAD = b"prekeys ahead"  # which prekeys expire later than they can, and since when
    PREKEYS_REPLACED = b"prekeys replaced"  # when all on the server were replaced last
    RELEASED = b"released"  # is there when one's own name was given up
    SEGMENTS = b"segments"  # of the index of searches, how many there are
    SETTINGS = b"settings"  # as TOML
    SPOOL_KEY = b"spool key"  # see ``cbfs.account.spool``: the newest first

    ARRIVING = b"arriving "  # key_part(sender): what of theirs has come in part
    AWAITED = b"awaited "  # drop 32: a line by which one has invited somebody, until they come
    BEFORE = b"before "  # conversation 16 | parent 16: what waits for a parent that is not here
    BROUGHT = b"brought "  # key_part(name): messages that are wanted by what they have said
    COUNTER = b"counter "  # a ``Series``: the last number that was given
    ENDING = b"ending "  # conversation 16: how many of its messages end
    FOLDER = b"folder "  # key_part(name of a folder): the conversation that it is of
    FOLDERS = b"folders "  # conversation 16: how many of its messages are folders
    GOING_ON = b"going on "  # conversation 16: those that go on from it, with other people
    HEADS = b"heads "  # conversation 16: the messages that no other names as its parent
    IN_VAIN = b"in vain "  # conversation 16: messages that were asked for in vain
    JOB = b"job "  # key_part(recipient, conversation, message): the key of the delivery
    LABEL = b"label "  # key_part(name): what they are shown as
    LAST_OWN = b"last own "  # conversation 16: one's own last message
    LEFT = b"left "  # conversation 16: is not shown until something is written in it
    LIFETIME = b"lifetime "  # conversation 16: for how long its messages are kept
    LIVES = b"lives "  # key_part(name): one's own for them, and theirs
    LOG = b"log "  # directory 16: how far the log of a name directory was followed, but one's own
    MET = b"met "  # key_part(name): they have sent a message that came, or got one
    MOVED = b"moved "  # inode u64: the number that it has now
    NAMESPACE = b"namespace "  # directory 16: what its people are shown with
    PASTED = b"pasted "  # drop 32: a line that one has been given, until it is used and that told
    POLICY = b"policy "  # directory 16: by which a name directory is followed, but one's own
    HANDED = b"handed "  # id 16: since when (u64, s) another machine's file is a draft; its seed 16
    PROVEN = b"proven "  # session id 16: what has come on it before is to be marked no more
    RELABEL = b"relabel "  # key_part(name): whose messages still have names of before
    SCRATCH = b"scratch "  # content u64: goes when a mount ends
    SPOOLED = b"spooled "  # id 16: is a draft, or more, though its file may be there still
    START = b"start "  # session id 16: a start to a last-resort prekey that has come
    TIMES = b"times "  # inode u64: times of what has no other record
    TRANSCRIPT = b"transcript "  # conversation 16: how long it is as one text
    UNMET = b"unmet "  # key_part(name): until when the directory is not asked for them
    WRITERS = b"writers "  # conversation 16 that goes on from another one: who has written in it
    WROTE = b"wrote "  # conversation 16: when one has last written in it oneself


class Series(bytes, Enum):
    """What is numbered, each from 1 on, by ``Writer.next_number``."""

    INBOX = b"inbox"
    INODE = b"inode"
    MESSAGE = b"message"
    QUARANTINE = b"quarantine"
    QUEUE = b"queue"
    REQUEST = b"request"


# Places

PLACE_SIZE = 16
WHOLE_FIRST, SEGMENT_FIRST = 1, 2
"""The first byte of all places of tables in ``WHOLE``, and of those in ``OF_SEGMENT``."""

GROUP_MAX = 256
"""Records that are written beside each other: a message writes some 20, most of which are those
that the one before has written as well, so that few stay where they are."""

_GROUP_SIZE = 4
_GROUP_END = 1 + _GROUP_SIZE

_SEGMENT_SIZE = 4
_NEAR_SIZE = 6
_NUMBERS = {table: number for number, table in enumerate(Table, 3)}
_TABLES = {number: table for table, number in _NUMBERS.items()}
_CHECKED_NUMBERS = {table: bytes([number, number ^ 0xFF]) for table, number in _NUMBERS.items()}
_OWN_SIZE = PLACE_SIZE - _GROUP_END - 2
_FIRST_BYTES = (
    {table: bytes([number]) for table, number in _NUMBERS.items()}
    | dict.fromkeys(WHOLE, bytes([WHOLE_FIRST]))
    | dict.fromkeys(OF_SEGMENT, bytes([SEGMENT_FIRST]))
)


class NewPlaces:
    """Places for records of tables in ``WHOLE``, of which GROUP_MAX are beside each other, where
    nobody can foretell. ``token(n)`` gives n random bytes. Of one thread."""

    def __init__(self, token: Callable[[int], bytes]) -> None:
        self._token = token
        self._group = b""
        self._drawn = b""
        """What the places of a group end with, drawn at once: that takes no longer than one."""
        self._used = 0

    def next(self, table: Table) -> bytes:
        """One that no record has."""
        at = self._used
        if at == len(self._drawn):
            self._group = bytes([WHOLE_FIRST]) + self._token(_GROUP_SIZE)
            self._drawn, at = self._token(GROUP_MAX * _OWN_SIZE), 0
        self._used = at + _OWN_SIZE
        return self._group + _CHECKED_NUMBERS[table] + self._drawn[at : at + _OWN_SIZE]


def derived_place(secret: bytes, table: Table, key: bytes) -> bytes:
    """Where a record with this key is, of a table that is not in ``WHOLE``."""
    if table not in OF_SEGMENT:
        return _FIRST_BYTES[table] + _drawn(secret, table, key, PLACE_SIZE - 1)
    near = kdf(secret, b"cbfs1 segment", key[:_SEGMENT_SIZE], _NEAR_SIZE)
    drawn = _drawn(secret, table, key, PLACE_SIZE - 2 - _NEAR_SIZE)
    return _FIRST_BYTES[table] + near + drawn + bytes([_NUMBERS[table]])


def _drawn(secret: bytes, table: Table, key: bytes, size: int) -> bytes:
    return kdf(secret, b"cbfs1 lookup", table.bound + key, size)


def first_byte(table: Table) -> bytes:
    """What the places of a table begin with."""
    return _FIRST_BYTES[table]


def table_at(place: bytes) -> Table | None:
    """Of which table what LMDB has under this is; None for what is no place of a record."""
    if len(place) != PLACE_SIZE:
        return None
    if place[0] == SEGMENT_FIRST:
        table = _TABLES.get(place[-1])
        return table if table in OF_SEGMENT else None
    if place[0] != WHOLE_FIRST:
        table = _TABLES.get(place[0])
        return None if table in WHOLE or table in OF_SEGMENT else table
    number, inverse = place[_GROUP_END : _GROUP_END + 2]
    table = _TABLES.get(number)
    return table if number ^ inverse == 0xFF and table in WHOLE else None


def place_of(table: Table, key: bytes) -> bytes:
    """A key or place, and its table: what a place is derived from, or a sealed value bound to."""
    return table.bound + key
