"""Whose signatures make a head of the directory count. C2SP tlog-policy, with the pinned
configuration in a comment that other readers ignore::

    # cbfs-config BASE64
    log NAMESPACE+ID+KEY cbfs-names://KEY@HOST:PORT
    witness NAME VKEY
    group NAME all|any|K MEMBER...
    quorum NAME
    # cbfs-degraded group NAME all|any|K MEMBER...
    # cbfs-degraded quorum NAME

The last two are comments for other readers as well: a second, weaker quorum of the same witnesses.
It is enough only to go on with a known contact whose entry has not changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from cbfs_common.errors import DecodeError
from cbfs_common.limits import COSIGNERS_MAX, POLICY_MAX
from cbfs_common.names.layout import HASH_SIZE
from cbfs_common.names.note import (
    COSIGNER_KEY,
    LOG_KEY,
    NoteKey,
    from_base64,
    parse_note_key,
    to_base64,
)
from cbfs_common.person import check_namespace, directory_id
from cbfs_common.profile import Address, parse_address

SCHEME = "cbfs-names"
_CONFIG = "cbfs-config"
_DEGRADED = "cbfs-degraded"


@dataclass(frozen=True, slots=True)
class Group:
    """``threshold`` of ``members`` (names of witnesses or earlier groups)."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """``log.name`` is the directory's namespace; ``config`` (32) the hash of the configuration
    that its verifiers run; ``witnesses`` their keys by name; ``quorum`` names a witness or group.
    ``degraded`` is the same with another, weaker quorum, for known contacts that are unchanged.
    ``urls``: where witnesses are reached, as far as the file says it.
    """

    log: NoteKey
    server: Address
    config: bytes
    witnesses: tuple[tuple[str, NoteKey], ...]
    groups: tuple[Group, ...]
    quorum: str
    degraded: "Policy | None" = None
    urls: tuple[tuple[str, Address], ...] = ()

    @property
    def namespace(self) -> str:
        """The directory's name for itself, in everything it signs."""
        return self.log.name

    @property
    def directory(self) -> bytes:
        """What stands for the directory wherever a name of it does (16)."""
        return directory_id(self.log.public)

    def satisfied(self, signed: Iterable[str]) -> bool:
        """Whether these witnesses are a quorum."""
        true = set(signed).intersection(name for name, _ in self.witnesses)
        for group in self.groups:
            if sum(member in true for member in group.members) >= group.threshold:
                true.add(group.name)
        return self.quorum in true

    def rules(self) -> str:
        """The lines that its verifiers agree on: witnesses, groups and quorum."""
        return replace(self, urls=())._rules()

    def _rules(self) -> str:
        urls = {name: f" {address.url(SCHEME)}" for name, address in self.urls}
        return "".join(
            f"witness {name} {key.encode()}{urls.get(name, '')}\n" for name, key in self.witnesses
        ) + "".join(f"{line}\n" for line in self._quorum_lines())

    def _quorum_lines(self) -> list[str]:
        groups = [
            f"group {group.name} {group.threshold} {' '.join(group.members)}"
            for group in self.groups
        ]
        return [*groups, f"quorum {self.quorum}"]

    def encode(self) -> str:
        """The policy file's text."""
        lines = self.degraded._quorum_lines() if self.degraded else []
        weaker = "".join(f"# {_DEGRADED} {line}\n" for line in lines)
        return (
            "# Policy of a cbfs name directory: give this file to its clients.\n"
            f"# {_CONFIG} {to_base64(self.config)}\n"
            f"log {self.log.encode()} {self.server.url(SCHEME)}\n" + self._rules() + weaker
        )


@dataclass(slots=True)
class _Parsing:
    config: bytes | None = None
    log: tuple[NoteKey, Address] | None = None
    witnesses: dict[str, NoteKey] = field(default_factory=dict)
    urls: dict[str, Address] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    quorum: str | None = None
    weaker: list[tuple[int, list[str]]] = field(default_factory=list)


def _wrong(number: int, what: str) -> NoReturn:
    raise DecodeError(
        f"line {number} of the policy: {what}", "ask the directory's operator for its policy file"
    )


def parse_policy(text: str) -> Policy:
    """A policy file. Raises DecodeError naming the line."""
    if len(text) > POLICY_MAX:
        _wrong(1, "the file is too large")
    parsing = _Parsing()
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if any(ord(letter) < 0x20 and letter != "\t" for letter in line) or "\x7f" in line:
            _wrong(number, "a control character")
        words = line.replace("\t", " ").split(" ")
        _line(parsing, number, [word for word in words if word])
    if parsing.log is None or parsing.config is None or parsing.quorum is None:
        _wrong(len(lines), "log, quorum or cbfs-config is missing")
    policy = Policy(
        parsing.log[0],
        parsing.log[1],
        parsing.config,
        tuple(parsing.witnesses.items()),
        tuple(parsing.groups.values()),
        parsing.quorum,
        urls=tuple(parsing.urls.items()),
    )
    return replace(policy, degraded=_weaker(policy, parsing.weaker)) if parsing.weaker else policy


def _weaker(policy: Policy, lines: list[tuple[int, list[str]]]) -> Policy:
    """This policy's witnesses with the groups and the quorum of the degraded lines."""
    parsing = _Parsing(witnesses=dict(policy.witnesses))
    for number, words in lines:
        if words[0] not in {"group", "quorum"}:
            _wrong(number, "a degraded policy has groups and a quorum")
        _line(parsing, number, words)
    if parsing.quorum is None:
        _wrong(lines[-1][0], "the degraded policy has no quorum")
    return replace(policy, groups=tuple(parsing.groups.values()), quorum=parsing.quorum)


def _line(parsing: _Parsing, number: int, words: list[str]) -> None:
    try:
        match words:
            case []:
                pass
            case ["#", keyword, value] if keyword == _CONFIG:
                _take_config(parsing, number, value)
            case ["#", keyword, *rest] if keyword == _DEGRADED and rest:
                parsing.weaker.append((number, rest))
            case [comment, *_] if comment.startswith("#"):
                pass
            case ["log", key, url]:
                _take_log(parsing, number, key, url)
            case ["witness", name, key, *urls] if len(urls) <= 1:
                _take_witness(parsing, number, name, key)
                if urls and urls[0].startswith(f"{SCHEME}://"):
                    parsing.urls[name] = parse_address(urls[0], SCHEME)
            case ["group", name, threshold, *members] if members:
                _take_group(parsing, number, name, threshold, tuple(members))
            case ["quorum", name]:
                _take_quorum(parsing, number, name)
            case _:
                _wrong(number, "not understood")
    except DecodeError as error:
        if error.hint.startswith("ask "):
            raise
        _wrong(number, error.in_full)


def _take_config(parsing: _Parsing, number: int, value: str) -> None:
    config = from_base64(value)
    if parsing.config is not None or len(config) != HASH_SIZE:
        _wrong(number, "one configuration hash of 32 bytes is needed")
    parsing.config = config


def _take_log(parsing: _Parsing, number: int, key: str, url: str) -> None:
    if parsing.log is not None:
        _wrong(number, "a second log")
    log = parse_note_key(key, LOG_KEY)
    check_namespace(log.name)
    parsing.log = log, parse_address(url, SCHEME)


def _take_witness(parsing: _Parsing, number: int, name: str, text: str) -> None:
    key = parse_note_key(text, COSIGNER_KEY)
    _new_name(parsing, number, name)
    if any(key.public == other.public for other in parsing.witnesses.values()):
        _wrong(number, "the key of another witness")
    parsing.witnesses[name] = key


def _take_group(
    parsing: _Parsing, number: int, name: str, threshold: str, members: tuple[str, ...]
) -> None:
    _new_name(parsing, number, name)
    words = {"all": len(members), "any": 1}
    if threshold not in words and (
        not threshold.isascii() or not threshold.isdigit() or threshold[0] == "0"
    ):
        _wrong(number, "a threshold is all, any or a number")
    if len(threshold) > 3:
        _wrong(number, "the threshold is too large")
    needed = words[threshold] if threshold in words else int(threshold)
    if needed > len(members):
        _wrong(number, "more members are needed than there are")
    for member in members:
        if member not in parsing.witnesses and member not in parsing.groups:
            _wrong(number, "a member that is not defined above")
        if member in parsing.members:
            _wrong(number, "a member that is in a group already")
        parsing.members.add(member)
    parsing.groups[name] = Group(name, needed, members)


def _take_quorum(parsing: _Parsing, number: int, name: str) -> None:
    if parsing.quorum is not None:
        _wrong(number, "a second quorum")
    if name not in parsing.witnesses and name not in parsing.groups:
        _wrong(number, "the quorum is not a witness or group defined above")
    parsing.quorum = name


def _new_name(parsing: _Parsing, number: int, name: str) -> None:
    if name == "none" or name in parsing.witnesses or name in parsing.groups:
        _wrong(number, "a name that is used already")
    if len(parsing.witnesses) >= COSIGNERS_MAX or len(parsing.groups) >= COSIGNERS_MAX:
        _wrong(number, "too many witnesses or groups")
