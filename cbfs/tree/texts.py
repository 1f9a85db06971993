"""The texts that the mount shows: README, ``status``, error files, and those of profiles, contacts
and requests.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import tomli_w

from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.contacts.fingerprint import Fingerprint
from cbfs.contacts.user_names import typed_name
from cbfs.interface import OUTLIVED, MessageRequest, Report
from cbfs.messages.file_names import moment
from cbfs.messages.transcript import shown_line, shown_lines
from cbfs.problems import Refused
from cbfs_common.errors import DecodeError
from cbfs_common.profile import Profile

_LISTED = re.compile(r"\A(?:[^ ,]* *, *)+")
"""What is before the last name of a list in a folder's name."""

_OF_CONVERSATION = re.compile(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}-")
"""How what conversations' folders are called begins."""

README = """This folder is a messenger. Files are messages.

Write to somebody        mkdir outbox/bob
                         echo hello > outbox/bob/hi
to several, with subject mkdir 'outbox/bob,carol lunch'
to yourself              mkdir outbox/YOURNAME: it is kept here and sent nowhere
Read                     ls unread; cat unread/*
                         tail -f conversations/*-bob/transcript
Find                     ls 'search/lunch from:bob after:2026-11-01'
                         ls by-date/2026-11-24
By a mail program        mutt -f mail/
Answer                   save a file in the folder of that name under outbox/
Add people, leave        'participants' in its metadata.toml there; rmdir the folder
A folder                 cp -r photos tmp/; mv tmp/photos outbox/bob/
Take back                rm the file in outbox/ before it is sent: a second after it
                         was last changed, 0.1 s after the end of cp and the like,
                         or when the editor that has it open ends
Later                    touch -d 'tomorrow 8:00' outbox/bob/hi
Delete                   rm conversations/.../MESSAGE
                         after a week: echo 'lifetime = "7d"' > outbox/.../metadata.toml
By a line of somebody    cat > contacts/NEW, paste it, Ctrl-D; to make one:
                         cbfs invite --contact
Strangers                cat requests/*/message; mv requests/bob contacts/ accepts,
                         rmdir requests/bob declines
Who they are             cat contacts/bob/fingerprint: compare it by voice, then
                         cp contacts/bob/fingerprint contacts/bob/verified
                         "unconfirmed" in a transcript: it may be from somebody else
Call bob something else  mv contacts/bob contacts/bobby
Hear less of bob         touch contacts/bob/muted, or blocked; rm it to undo this
How things are           cat status; for one message: getfattr -d MESSAGE
Another name directory   cp POLICY directories/, then: mkdir outbox/bob@example.org
Settings                 edit config.toml

A file that cannot be sent stays in outbox/ with NAME.error beside it, which says why.
Rename or change the file to try again. The same happens, after a minute, to a file with
the name of a scratch file, and to a copy that has failed, until it is copied anew.

tmp/ is for files that you prepare; it is emptied at unmount. ui_info/ is for programs
that keep something of their own here. quarantine/, if it is there, has envelopes that
could not be read. To unmount, use fusermount3 -u on this folder.
"""


def read_folder_name(
    name: str, called: Callable[[str], str] = typed_name
) -> tuple[tuple[str, ...], str]:
    """(participants, subject) that a name says: ``bob,carol lunch``, or ``bob, carol lunch``.
    Raises Refused, also for what conversations' folders are called: somebody may have that for a
    user name, and wait for who makes the folder of one again that has another name by now."""
    if _OF_CONVERSATION.match(name):
        raise Refused(
            f"no conversation has the folder {name}",
            "ls outbox; for somebody who is called so, write participants into its metadata.toml",
        )
    name = _LISTED.sub(lambda match: match[0].replace(" ", ""), name)
    people, _, subject = name.partition(" ")
    return checked_people(
        (person for person in people.split(",") if person), called
    ), subject.strip()


def checked_people(names: Iterable[str], called: Callable[[str], str]) -> tuple[str, ...]:
    """User names as somebody typed them. Raises Refused."""
    found = []
    for name in names:
        try:
            found.append(called(name))
        except DecodeError as error:
            if "@" in name[1:]:  # it may be the directory that is wrong
                raise Refused(str(error), error.hint) from error
            raise Refused(f"{name!r} is not a user name", error.hint) from error
    return tuple(found)


def status_text(name: str, report: Report, held: Sequence[tuple[str, str]]) -> str:
    """The file ``status``. ``held``: (path, why) of what stays in the outbox."""
    lines = [f"{name}: {report.connection}", *report.network]
    lines += [report.name, ""] if report.name else [""]
    if report.queue:
        lines.append("waiting to be delivered:")
        lines += [f"  {line}" for line in report.queue]
    else:
        lines.append("everything that was sent is delivered")
    if report.arriving:
        lines.append("arriving:")
        lines += [f"  {line}" for line in report.arriving]
    if report.unreceived:
        lines.append("delivered, without a receipt so far:")
        lines += [f"  {line}" for line in report.unreceived]
    if report.requests:
        lines.append("strangers who wait for your decision, in requests/:")
        lines += [f"  {name}" for name in report.requests]
    if report.ending:
        lines.append("deleted when their time is over:")
        lines += [f"  {line}" for line in report.ending]
    if report.renaming:
        lines.append("files that get other names:")
        lines += [f"  {line}" for line in report.renaming]
    if held:
        lines.append("in the outbox:")
        lines += [f"  {path}: {why}" for path, why in held]
    if report.problems:
        lines.append("problems:")
        lines += [f"  {line}" for line in report.problems]
    return "\n".join(lines) + "\n"


def profile_text(name: str, profile: Profile) -> str:
    """A profile as TOML."""
    return tomli_w.dumps(
        {
            "name": name,
            "server": profile.server.url(),
            "user_id": profile.user_id.hex(),
            "signing_key": profile.signing.hex(),
            "auth_key": profile.auth.hex(),
            "kem_key": profile.kem.hex(),
            "protocol_version": profile.version,
        }
    )


def contact_text(contact: Contact, name: str) -> str:
    """profile.toml of a contact, under their true name as people see it."""
    known: dict[str, object] = {"since": moment(contact.since), "known_by": contact.how.value}
    if contact.moved:
        known["keys_or_server_changed"] = moment(contact.moved)
    known["verified"] = moment(contact.verified) if contact.verified else False
    if contact.petname:
        known["petname"] = contact.petname
    if contact.standing is not Standing.KNOWN:
        known["accepted"] = False
    return profile_text(name, contact.profile) + tomli_w.dumps(known)


def changed_text(contact: Contact, name: str, fingerprint: Fingerprint) -> str:
    """CHANGED of a contact whose name, as people see it, has a new owner, or was recovered."""
    offered = contact.offered
    if offered is None:
        return ""
    what = (
        f"The name {name} was given up or ran out, and somebody has registered it anew"
        if offered.incarnation != contact.entry.incarnation
        else f"{name}'s entry was taken over with its recovery keys"
    )
    digits = " ".join(fingerprint.digits)
    return f"""{what}:
seen here {moment(contact.stopped):%Y-%m-%d %H:%M} UTC, round {offered.round} of the name directory.
The new keys are not signed by the old ones. It may be the same person after a loss, or anybody.

Nothing is sent to {name} until you decide. What you wrote waits, and what comes under the new keys
waits as well.

If it is the same person, and you have compared the fingerprint by voice:
    cp fingerprint verified          or: cbfs verify MOUNT {name}
If you want to write to the new owner without comparing:
    cp CHANGED accepted
Otherwise do nothing. The old keys stay as they are.

The fingerprint of the new keys:
{digits}
"""


def mark_text(contact: Contact, mark: Mark) -> str:
    """blocked and muted of a contact."""
    what = {
        Mark.BLOCKED: "What they send is dropped unseen, and nothing is sent to them.",
        Mark.MUTED: "What they send is in its conversation, but not in unread/.",
    }[mark]
    return f"Since {moment(contact.marked(mark)):%Y-%m-%d %H:%M} UTC. {what} rm undoes it.\n"


def own_warning_text(alarm: str, lapse: str, stopped: str) -> str:
    """WARNING, in the root: what somebody else has made of one's own name, why it cannot be kept,
    and why this copy of the account has stopped; each may be empty."""
    texts = (
        alarm and alarm_text(alarm),
        lapse and lapse_text(lapse),
        stopped and (outlived_text() if stopped == OUTLIVED else stopped_text(stopped)),
    )
    return "\n".join(filter(None, texts))


def stopped_text(what: str) -> str:
    """Of a copy of an account that has stopped."""
    return f"""{what[0].upper()}{what[1:]}.

If this is a backup, or a directory that you have copied, go on with the other one, and remove this
one. What you have saved in outbox/ here since it stopped is not sent.
To go on here instead:       fusermount3 -u MOUNT; cbfs claim
If you know of no other copy, somebody else has one:
                             fusermount3 -u MOUNT; cbfs name rotate --stolen
"""


def outlived_text() -> str:
    """Of an account that was brought over from long ago."""
    return f"""{OUTLIVED[0].upper()}{OUTLIVED[1:]}.

All that was in it is here, and stays: messages, people, requests, settings, and what you had not
sent.
To go on with it, take your name in a name directory of now, at a server of now, with the keys that
you have:                    fusermount3 -u MOUNT
                             cbfs init NAME --account DIRECTORY --server URL --names POLICYFILE
or, by a line that somebody gives you:
                             cbfs init LINE DIRECTORY
Your contacts do the same, in the same name directory. Who has the keys there by which you know them
is them; compare fingerprints once more, as each has one key more. What waits is sent then.
"""


def lapse_text(what: str) -> str:
    """Of a name that cannot be kept."""
    return f"""Your name cannot be kept: {what}.

People who know you already can go on writing to you, and you to them. Nobody new can find you
without the name.
Look at it:                  cbfs name show
Renew it by hand:            fusermount3 -u MOUNT; cbfs name renew
If that is refused for good, make an account with another name with cbfs init, and tell your
contacts.
"""


def alarm_text(what: str) -> str:
    """Of a name that somebody else has changed."""
    return f"""Your name is not safe: {what}.

You did not do this with this account. Tell your contacts in another way, and let them compare
fingerprints with you before they write.
Look at it:                  cbfs name show
If others have your keys:    cbfs name rotate
"""


def warning_text(contact: Contact) -> str:
    """What there is to know before writing to this contact, or nothing."""
    entry = contact.entry
    lines = [f"{contact.warning}."] if contact.warning else []
    if entry.frozen:
        lines.append("They have frozen the name: others may have its keys. Nothing is sent.")
    if entry.heirs.keys:
        lines.append(
            f"Somebody with the recovery key takes the name over on {moment(entry.due * 1_000):%F},"
            " unless the owner objects."
        )
    return "".join(f"{line}\n" for line in lines)


def in_one_line(error: str) -> str:
    """An error file as a line of ``status``."""
    what, _, hint = error.rstrip().partition("\nWhat to do: ")
    return f"{what} ({hint.removesuffix('.')})" if hint else what


def error_text(error: Exception, hint: str, what: str = "This was not sent") -> str:
    """An error file: ``what`` came of it."""
    text = f"{what}: {error}.\n"
    return f"{text}What to do: {hint}.\n" if hint else text


REQUEST_LINES_MAX = 40
"""Lines of a first message that are shown."""


def request_text(request: MessageRequest, me: str, label: Callable[[str], str]) -> str:
    """The file ``message`` of a request. What the stranger chose is indented, one line stays one
    line, and no character of it does anything to a terminal. ``me``: one's own name; ``label``:
    what people are shown as."""
    shown = label(request.name)
    others = [label(who) for who in request.participants if who not in (me, request.name)]
    whom = f"you, with {', '.join(others)}" if others else "you"
    more = request.messages - 1
    lines = [
        f"{shown} has written to {whom}",
        f"first received: {moment(request.since):%Y-%m-%d %H:%M} UTC",
    ]
    if request.subject:
        lines.append(f"subject: {shown_line(request.subject)}")
    lines += ["", *_first_message(request), ""]
    if more:
        lines.append(f"... and {more} more message{'s' if more > 1 else ''}.")
    lines += [
        f"Accept, and see all:     mv requests/{shown} contacts/",
        f"Decline:                 rmdir requests/{shown}",
        f"Never hear of them:      touch requests/{shown}/blocked",
        f"{shown} is not told of any of this, nor that the message has arrived.",
    ]
    return "\n".join(lines) + "\n"


def _first_message(request: MessageRequest) -> list[str]:
    if request.folder:
        return [f"    (a folder, {request.file_name}, {request.size} bytes)"]
    try:
        text = request.head.decode()
    except UnicodeDecodeError as error:
        cut = error.start >= len(request.head) - 3 and request.size > len(request.head)
        text = request.head[: error.start].decode() if cut else "\0"
    if "\0" in text:
        return [f"    (a file, {request.file_name or 'without a name'}, {request.size} bytes)"]
    found = shown_lines(text)
    lines = [f"    {line}" for line in found[:REQUEST_LINES_MAX]]
    if len(found) > REQUEST_LINES_MAX or request.size > len(request.head):
        lines.append("    ...")
    return lines
