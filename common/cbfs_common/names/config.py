"""What all verifiers of a directory agree on; clients pin its hash. PROTOCOL.rst, Names:
configuration::

    cbfs1 names config
    log NAMESPACE+ID+KEY
    registration open|invite|work BITS
    registrar BASE64              (left out when there is none)
    short LENGTH
    lifetime SECONDS
    witness NAME VKEY
    group NAME all|any|K MEMBER...
    quorum NAME

A configuration file may leave the first line out, hold comments, and have a URL behind the log's
and the witnesses' keys; none of these are part of what is hashed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256

from cbfs_common.errors import DecodeError
from cbfs_common.limits import NAME_MIN, NAMES_CONFIG_MAX, SPOKEN_FOR_MAX, WORK_BITS_MAX
from cbfs_common.names.layout import HASH_SIZE
from cbfs_common.names.note import NoteKey, from_base64, to_base64
from cbfs_common.names.policy import SCHEME, Group, Policy, parse_policy
from cbfs_common.person import directory_id
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.profile import Address, parse_address

CONFIG_LABEL = "cbfs1 names config"
SHORT = 5
"""Shorter names need an invite, unless the configuration says otherwise: there are so few of them
that a stranger could have them all."""

CONFIGS_KEPT = 16
"""Parsed configurations in memory: each operation is looked at under the one in force."""

LIFETIME_MAX = 100 * 365 * 86_400
LIFETIME = 2 * 365 * 86_400
"""How long a registration lasts, unless the configuration says otherwise."""

_NOWHERE = Address(bytes(KEY_SIZE), "localhost", 1)


class Registration(StrEnum):
    """Who may register a name."""

    OPEN = "open"
    INVITE = "invite"
    WORK = "work"


@dataclass(frozen=True, slots=True)
class Terms:
    """``work``: leading zero bits that a COMMIT's proof of work must have at least where the rule
    is WORK. ``registrar``: the Ed25519 key (32) that signs invites, or empty. Names shorter than
    ``short`` need an invite to that very name: nobody gets them where there is no registrar.
    ``lifetime`` of a registration in seconds."""

    registration: Registration = Registration.OPEN
    work: int = 0
    registrar: bytes = b""
    short: int = NAME_MIN
    lifetime: int = LIFETIME

    def encode(self) -> str:
        """Its lines of the configuration."""
        work = f" {self.work}" if self.registration is Registration.WORK else ""
        registrar = f"registrar {to_base64(self.registrar)}\n" if self.registrar else ""
        return (
            f"registration {self.registration}{work}\n{registrar}"
            f"short {self.short}\nlifetime {self.lifetime}\n"
        )


@dataclass(frozen=True, slots=True)
class Config:
    """``log``: the sequencer's key, whose name is the namespace. ``witnesses``: the verifiers'
    keys by name; ``groups`` of them; ``quorum``: the one that must sign."""

    log: NoteKey
    witnesses: tuple[tuple[str, NoteKey], ...]
    groups: tuple[Group, ...]
    quorum: str
    terms: Terms

    @property
    def namespace(self) -> str:
        """The directory's name for itself."""
        return self.log.name

    @property
    def directory(self) -> bytes:
        """What stands for the directory wherever a name of it does (16)."""
        return directory_id(self.log.public)

    @property
    def lifetime(self) -> int:
        """How long a registration lasts, in seconds."""
        return self.terms.lifetime

    def encode(self) -> str:
        """The text that is hashed."""
        rules = self.policy(_NOWHERE).rules()
        return f"{CONFIG_LABEL}\nlog {self.log.encode()}\n{self.terms.encode()}{rules}"

    def digest(self) -> bytes:
        """SHA-256 of the text (32)."""
        return sha256(self.encode().encode("ascii")).digest()

    def policy(self, server: Address) -> Policy:
        """The strict policy for clients that reach the directory at ``server``: whose signatures
        publish a round, those make it valid."""
        config = bytes(HASH_SIZE) if server is _NOWHERE else self.digest()
        return Policy(self.log, server, config, self.witnesses, self.groups, self.quorum)

    def degraded(self, server: Address) -> Policy:
        """A policy that any one member of the quorum's group satisfies: for contacts that are
        known and unchanged, while the others are down."""
        groups = tuple(
            replace(group, threshold=1) if group.name == self.quorum else group
            for group in self.groups
        )
        return replace(self.policy(server), groups=groups)

    def satisfied(self, signed: Iterable[str]) -> bool:
        """Whether these witnesses are a quorum."""
        return self.policy(_NOWHERE).satisfied(signed)

    def witness(self, key: bytes) -> tuple[str, NoteKey] | None:
        """The witness with this Ed25519 key (32)."""
        return next((each for each in self.witnesses if each[1].public == key), None)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration, and where its witnesses (by name) and its log are reached, as far as the
    file says it."""

    config: Config
    server: Address | None
    urls: dict[str, Address]


def parse_config(text: str) -> ConfigFile:
    """A configuration's text or file. Raises DecodeError naming the line."""
    if len(text) > NAMES_CONFIG_MAX or not text.isascii():
        raise DecodeError("the configuration is too long or not ASCII")
    terms: dict[str, list[str]] = {}
    rules: list[str] = []
    urls: dict[str, Address] = {}
    server: Address | None = None
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        match words:
            case ["registration" | "registrar" | "short" | "lifetime" as word, *rest]:
                if word in terms:
                    raise _wrong(number, f"a second {word}")
                terms[word] = rest
            case ["log", key, *rest] if len(rest) <= 1:
                server = parse_address(rest[0], SCHEME) if rest else None
                rules.append(f"log {key} {_NOWHERE.url(SCHEME)}")
                continue
            case ["witness", name, _, url]:
                urls[name] = parse_address(url, SCHEME)
            case _ if line == CONFIG_LABEL and number == 1:
                pass
            case _ if not line.startswith("#"):
                rules.append(line)
                continue
        rules.append(line if words[:1] == ["witness"] else "")
    policy = parse_policy(f"# cbfs-config {to_base64(bytes(HASH_SIZE))}\n" + "\n".join(rules))
    config = Config(policy.log, policy.witnesses, policy.groups, policy.quorum, _terms(terms))
    if not config.satisfied(name for name, _ in config.witnesses):
        raise DecodeError("no set of witnesses satisfies the quorum")
    return ConfigFile(config, server, urls)


@lru_cache(CONFIGS_KEPT)
def config_of(text: str) -> Config:
    """The configuration of a text that must be exactly what is hashed. Raises DecodeError."""
    config = parse_config(text).config
    if config.encode() != text:
        raise DecodeError("not a configuration in its one form")
    return config


def _terms(lines: dict[str, list[str]]) -> Terms:
    registration, work = Registration.OPEN, 0
    match lines.get("registration", ["open"]):
        case ["open"]:
            pass
        case ["invite"]:
            registration = Registration.INVITE
        case ["work", bits]:
            registration, work = Registration.WORK, _number(bits, 0, WORK_BITS_MAX, "work")
        case _:
            raise DecodeError("registration is open, invite or work BITS")
    registrar = b""
    match lines.get("registrar", []):
        case []:
            pass
        case [key]:
            registrar = from_base64(key)
        case _:
            raise DecodeError("a registrar is one key")
    short = _number(_one(lines, "short", str(SHORT)), NAME_MIN, SPOKEN_FOR_MAX, "short")
    lifetime = _one(lines, "lifetime", str(LIFETIME))
    if registrar and len(registrar) != KEY_SIZE:
        raise DecodeError("a registrar is a key of 32 bytes in base64")
    if not registrar and registration is Registration.INVITE:
        raise DecodeError("invites need a registrar")
    return Terms(
        registration, work, registrar, short, _number(lifetime, 1, LIFETIME_MAX, "lifetime")
    )


def _one(lines: dict[str, list[str]], word: str, default: str) -> str:
    values = lines.get(word, [default])
    if len(values) != 1:
        raise DecodeError(f"{word} has one value")
    return values[0]


def _number(text: str, least: int, most: int, what: str) -> int:
    if not text.isdigit() or len(text) > 12 or not least <= int(text) <= most:
        raise DecodeError(f"{what} is a number from {least} to {most}")
    return int(text)


def _wrong(number: int, what: str) -> DecodeError:
    return DecodeError(f"line {number} of the configuration: {what}")
