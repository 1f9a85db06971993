"""Every limit of the protocol has its number here. Sizes in bytes, times in seconds.

Limits of one program alone (mailbox quotas, open connections, ...) stand in that
program's own ``limits.py``.
"""

ENVELOPE_SIZE = 16_384
"""An envelope, always. PROTOCOL.rst, Envelope."""

SPOKEN_VERSION = 1
"""The highest version of the protocol that these programs read. PROTOCOL.rst, Versions."""

NAME_MIN = 3
NAME_MAX = 32
"""Length of a user name."""

PROFILE_MAX = 1_024
"""An encoded profile."""

PARTICIPANTS_MAX = 50
"""People in one conversation, oneself included."""

COMPOSITIONS_MAX = 64
"""Conversations that go on from one and the same, of which a client looks for who follows whom."""

SUBJECT_MAX = 200
FILE_NAME_MAX = 255
"""In UTF-8 bytes."""

BUNDLE_MAX = 3_072
"""A sender's name proof inside a message body."""

PREKEYS_ONE_TIME = 100
"""One-time prekeys that a client keeps on its home server."""

PREKEY_SECRETS_MAX = 400
"""Secrets that a client keeps of prekeys which may be in somebody's hands, whatever a server says
of those that it has. One-time prekeys that were never replaced are at most half of them."""

PREKEY_LIFETIME = 14 * 86_400
PREKEY_RENEWAL = 7 * 86_400
PREKEY_GRACE = 14 * 86_400
"""A one-time prekey is good for so long, all on the server are replaced so often, and a secret is
kept for so long after its prekey expired: envelopes wait in mailboxes."""

PREKEY_REPLACE_PAUSE = 86_400
"""All prekeys on the server are replaced at most so often, whatever it says."""

PREKEY_LATE = PREKEY_RENEWAL + PREKEY_REPLACE_PAUSE
"""A prekey that was made so long before another one is given to nobody any more, when that is."""

LAST_RESORT_LIFETIME = 30 * 86_400
LAST_RESORT_RENEWAL = 7 * 86_400
LAST_RESORT_GRACE = 14 * 86_400
"""A last-resort prekey is good for so long, its successor is made so long after it, and its secret
is kept for so long after that, or after it expired."""

SKIP_MAX = 4_096
"""How far one message may jump ahead in a chain."""

SKIPPED_KEPT_MAX = 2_000
SKIPPED_LIFETIME = 30 * 86_400
"""Skipped message keys kept per session, and for how long."""

SESSIONS_PER_PEER = 8
IN_MAX = 2
"""Sessions kept with one peer; of them so many that the peer has begun and is not proven in."""

STARTS_MAX = 4_096
"""Starts to last-resort prekeys that are remembered, so that none is taken twice."""

LIVES_MAX = 16
"""Lives of a peer that counted before, and that count no more."""

WORK_SIZE = 4_096
"""Bytes that are hashed in each try of a newcomer's proof of work."""

NEWCOMER_BITS_MAX = 64
"""Zero bits that a message server may ask of it."""

CHALLENGE_SIZE = 16
INVITE_SIZE = 56
"""What a message server tells a newcomer, and what it has signed for one."""

FILE_SIZE_MAX = 64 * 1024 * 1024
"""Default limit of a file that is sent as one message."""

# Name directory. PROTOCOL.rst, Names.

NAMESPACE_MAX = 64
"""Bytes of a directory's namespace, which is its checkpoint origin."""

OWNER_KEYS_MAX = 5
"""Owner keys, and recovery keys, of one entry."""

OPERATION_ROUNDS_MAX = 65_536
"""How many rounds ahead an operation may expire."""

COMMIT_LIFETIME = 86_400
"""How long after its COMMIT a REGISTER is accepted."""

NAME_GRACE = 30 * 86_400
NAME_QUARANTINE = 90 * 86_400
"""After a name's expiry, before anyone may register it anew: their sum."""

RECOVERY_DELAY = 7 * 86_400
"""From a RECOVER until its heirs own the name; so long the owner can cancel it."""

CHANGES_AT_ONCE = 8
CHANGE_PACE = 3_600
KEYS_PACE = 86_400
"""So many changes of one name, of one kind, may come at once, and then one each so many seconds:
UPDATEs and the owners' RENEWs together by the first, and ROTATE, RECOVER and CANCEL by the second,
each by itself."""

AGENT_RENEWALS = 8
"""A renewal by a name's agent adds this part of the configured lifetime at least."""

COMMIT_ROUNDS_MAX = 1_024
"""How many rounds ahead a COMMIT may expire: the work in one that is not in force any more is soon
good for nothing."""

COMMITS_MAX = 100_000
"""COMMITs in force: past them the oldest that no invite has let in goes."""

OPEN_WORK = 18
"""Leading zero bits that a proof of work has at least where registration is open."""

COMMITS_EASY = 256
COMMIT_PACE = 1
"""So many COMMITs may come at once until more work is asked of the next; each is forgotten for that
after so many seconds, one after another."""

ROUND_COMMITS_MAX = 512
"""COMMITs in one round: a flood leaves room for what owners do."""

WORK_BITS_MAX = 40
"""Leading zero bits that a proof of work may be asked to have."""

SPOKEN_FOR_MAX = 8
"""Names shorter than this at most may need the registrar's grant."""

RECEIPT_PATIENCE = 60
"""Seconds from a verifier's receipt until it refuses a round without the operation."""

NAMES_CONFIG_MAX = 8_192
"""A configuration's text."""

ROUND_TIME_OFF_MAX = 30
"""How far a round's time may be off a verifier's clock."""

COSIGN_INTERVAL = 30
"""A verifier cosigns the newest head anew this often."""

COSIGNATURE_AGE_MAX = 300
COSIGNATURE_AHEAD_MAX = 60
"""Cosignature times a client accepts, against its own clock."""

COSIGNERS_MAX = 32
"""Witnesses, and groups of them, in a policy; signature lines in a head."""

POLICY_MAX = 65_536
"""A policy file."""

DIRECTORIES_MAX = 16
"""Name directories that a client follows beside its own."""

ROUND_OPERATIONS_MAX = 1_024
"""Operations in one round."""

HEAD_MAX = 6_144
"""A signed head: checkpoint and signature lines."""

FEED_TILE = 64
"""Rounds in a tile of the change feed."""

FEED_PART = 16_000
"""Bytes of a tile in one reply: of each but its last."""

FOLLOW_MAX = 4_096
"""Rounds of the change feed that are fetched at once: 64 tiles, some 1 MiB. Who is further behind
asks for a consistency proof from a multiple of it."""

HEADS_SEEN_MAX = 32
"""Heads of look-ups that a client keeps until it follows the log through them."""

# Transport and message server. PROTOCOL.rst, Transport and Message server.

FRAME_SIZE = 16_932
"""Every frame, in both directions: 34 Tor relay cells of 498 bytes."""

FRAMES_PER_KEY = 256
"""After so many frames a direction moves on to its next key."""

PADDING_MEAN = 300
"""Mean time between two padding frames of one direction of a connection. For 10,000 idle ones a
server sends 33 a second: 0.6 MB, and 0.05 % of a processor at 15 us each."""

PREKEY_RECORD_SIZE = 1_305
"""A signed public prekey as the server stores it."""

UPLOAD_MAX = 12
"""Prekey records in one upload request."""

IDS_MAX = 900
"""Envelope ids in one list reply or delete request."""

COPIES_WITHIN = 86_400
"""Seconds: a client that has begun anew as a copy stops when another copy does so within them."""

LOST_APART = 600
"""Seconds between two peers that are told of lost sessions, in the mean."""

MARK_SIZE = 56
"""What a client leaves at its home server to know itself by: a salt of 24, and 32 sealed bytes."""

PUSH_WINDOW = 64
"""Envelopes that a server pushes ahead of their deletion."""

BLOB_CHUNK = 16_384
BLOB_SEALED_CHUNK = BLOB_CHUNK + 16
"""Bytes of a chunk of a blob, and of a sealed one: with all that is said of it one frame."""

BLOB_FANOUT = 512
"""Hashes in a chunk of a blob's tree."""

BLOB_LEAST = 64
BLOB_STEP = 4_096
BLOB_CHUNKS_MAX = 262_144
"""Chunks of data of a blob: powers of two from the least of these, 1 MiB, to the step, 64 MiB, and
multiples of that up to 4 GiB."""

BLOB_SIZE_MAX = BLOB_CHUNKS_MAX * BLOB_CHUNK
"""Bytes of the content of a blob."""

BLOB_DAYS_MAX = 65_535
"""Days for which a blob may be asked to be kept."""

# Sessions and bodies.

ROUTE_WINDOW = 8
ROUTE_WINDOW_NEXT = 4
"""Route tags held ready: ahead in the current receiving chain, and in the next one."""

TRIALS_MAX = 8_192
"""Header keys tried for one envelope whose route is in no table."""

BODY_MAX = 12_710
"""A message body: what fits into the smaller of the two kinds of envelope."""

PARENTS_MAX = 16
DATE_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""

MESSAGE_LIFETIME_MIN = 10
MESSAGE_LIFETIME_MAX = 366 * 86_400
"""For how long a message is kept once it is there, in a conversation with a lifetime."""

LIFETIME_WAIT = 7 * 86_400
"""For how long more its sender keeps one that is not delivered yet."""

LIFETIME_CHANGE_MAX = 4_294_967_295
LIFETIME_CHANGES_AHEAD = 1_000
"""Changes of a conversation's lifetime; a message that is so many ahead changes nothing."""

CONVERSATION_NUMBERS = 256
"""Conversations of the same people about the same subject whose ids are derived."""

NOTE_IDS_MAX = 256
"""Messages that one note names."""

FORMER_KEYS_GRACE = 48 * 3_600
"""So long after a contact's keys were replaced, what comes under those of before is still taken,
unless they were stolen."""

SESSION_IDLE = 30 * 86_400
"""A session on which nothing comes for so long, while something does on another one, is
forgotten."""

NOTE_CLOCK = 300
"""Mean time between two notes of an account, whatever was received and to however many it writes:
288 a day, 4.7 MB. Receipts and repairs go in them."""

NOTE_RECENT = 30 * 86_400
NOTE_OTHERS = 4
"""Notes go to those to whom the user has written within this time; one in so many to anybody whom
they have ever written to, or accepted."""

PROMPT_AFTER = 20
"""With prompt reactions, receipts wait for a random time around this instead, and go together."""

ASK_FIRST = 10
ASK_AFTER = 60
"""How long a message may be missing until it is asked for; how long until it is asked for again,
doubled each time."""

ASK_SPREAD = 6
"""With prompt reactions, what is missing is asked for after this share of the time that a receipt
would wait."""

ASKS_MAX = 12
WANTED_MAX = 4_096
"""Times a missing message is asked for; and questions to all, at once, for what one peer says that
there is: a message that is missing in a group is asked for of everybody in it."""

OFFER_AFTER = 3 * 86_400
"""How long after delivery a message without a receipt is offered again; doubled each time."""

OFFERS_MAX = 5

SILENCE = 7 * 86_400
"""A session that was begun here and that nothing has come on for so long: the next message that the
user writes begins another. And so long a session that the peer has begun is answered beside a
confirmed one."""

QUARANTINE_MAX = 16_384
"""Envelopes that could not be read; past them the oldest go."""

PARTS_MAX = 16_384
"""Parts of one message: enough for FILE_SIZE_MAX under the longest header."""

FOLDER_ENTRIES_MAX = 4_096
"""Files and folders in a folder that is one message."""

FOLDER_DEPTH_MAX = 16
"""How many folders deep: 1 for files in the folder itself."""

FOLDER_TABLE_MAX = 1_024 * 1_024
"""Bytes of the table of its entries."""

BLOB_ABOVE = 1 << 20
"""Content of more bytes travels as a blob."""

BLOB_DAYS = 21
BLOB_RENEWALS = 4
"""For how many days a client asks its server to keep a blob, and how often it puts one there again
of which somebody has not said that they have it: as long as it offers the message."""

BLOB_CLOCK = 3_600
"""Mean time between two looks at which blobs are to go from the server, or to be put there again:
by nothing but that does it learn who has got one."""

INCOMPLETE_MAX = 64
INCOMPLETE_BYTES_MAX = 4 * FILE_SIZE_MAX
"""Messages of one sender that are arriving in parts, and their bytes so far; past either the
oldest is forgotten, and is to be sent again."""

INCOMPLETE_FOR = 90 * 86_400
"""After so long a message that has not become whole is forgotten: longer than mailboxes keep the
rest of it, and than its sender offers it."""

INVITE_LINE_MAX = 160
"""Characters of a line that invites somebody."""

LINE_DAYS = 7
"""Days for which such a line is good. A message server forgets what nobody has fetched by then."""

LINE_FINISH_DAYS = 30
"""Days for which the invites count that lie at the server for a line: who has begun to use it may
be cut off, and finish later."""

GRANT_INDEX_MAX = 1_024
"""Invites that an account may ask its server for in a week, at most."""

GRANTED_TOKEN_SIZE = 154
"""An invite to a name directory, for any name, with its seed."""

LINE_SECRET_SIZE = 20
"""The secret in such a line: a hash of what it is for."""

LINE_SALT_SIZE = 16
"""Random bytes in what a line is for, by which nobody can guess its secret."""
