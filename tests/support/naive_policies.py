"""Policies and configurations of the name directory once more, straight from the text of
protocol/names.rst: each kind of case of their vectors. Nothing of cbfs_common."""

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from tests.support.naive_layouts import Wrong, need
from tests.support.naive_messages import Given, kdf
from tests.support.naive_names import operation
from tests.support.naive_rounds import (
    invite,
    unbase64,
    vkey,
    work,
)
from tests.support.vectors import Readers

DAY = 86_400
CONTROL = {*range(32), 127}


def namespace(text: str) -> None:
    need(1 <= len(text) <= 64 and set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-"))
    need(all(re.split("[.-]", text)))


def address(text: str) -> tuple[bytes, str, int]:
    places = r"(?:\[([0-9a-f:]+)\]|([^:\[\]]+)):([1-9][0-9]*)"
    found = re.fullmatch("cbfs-names://([a-z2-7]{52})@" + places, text)
    need(found is not None)
    assert found is not None
    key = base64.b32decode(found[1].upper() + "====")
    need(base64.b32encode(key).decode().rstrip("=").lower() == found[1])
    need(int(found[4]) < 65_536)
    return key, found[2] or found[3], int(found[4])


class Policy:
    """A policy file, line by line."""

    def __init__(self, text: str) -> None:
        need(len(text) <= 65_536)
        self.config: bytes | None = None
        self.log: tuple[str, bytes] | None = None
        self.server: tuple[bytes, str, int] | None = None
        self.witnesses: dict[str, bytes] = {}
        self.strict = Quorum(self.witnesses)
        self.weaker: Quorum | None = None
        for line in text.split("\n"):
            need(
                not any(
                    (ord(letter) < 32 and letter != "\t") or letter == "\x7f" for letter in line
                )
            )
            self._line([word for word in re.split("[ \t]", line) if word])
        need(None not in (self.config, self.log, self.strict.name))
        need(self.weaker is None or self.weaker.name is not None)
        assert self.log is not None
        namespace(self.log[0])

    def _line(self, words: list[str]) -> None:
        if words[:2] == ["#", "cbfs-config"] and len(words) == 3:
            need(self.config is None)
            self.config = unbase64(words[2])
            need(len(self.config) == 32)
        elif words[:2] == ["#", "cbfs-degraded"] and len(words) > 2:
            self.weaker = self.weaker or Quorum(self.witnesses)
            self.weaker.line(words[2:])
        elif words and words[0][0] != "#":
            self._rule(words)

    def _rule(self, words: list[str]) -> None:
        if words[0] == "log" and len(words) == 3:
            need(self.log is None)
            self.log = vkey(words[1], 1)
            self.server = address(words[2])
        elif words[0] == "witness" and 3 <= len(words) <= 4:
            _, key = vkey(words[2], 4)
            need(self.strict.is_new(words[1]) and key not in self.witnesses.values())
            self.witnesses[words[1]] = key
            if words[3:] and words[3].startswith("cbfs-names://"):
                address(words[3])
        else:
            self.strict.line(words)

    def key_names(self, text: str) -> dict[str, str]:
        """The key names of witnesses, which stand in heads, by their names in the policy."""
        found = re.findall("^witness[ \t]+([^ \t]+)[ \t]+([^+ \t]+)", text, re.M)
        return dict(found)


class Quorum:
    """Groups of witnesses, and the one that must sign."""

    def __init__(self, witnesses: dict[str, bytes]) -> None:
        self.witnesses = witnesses
        self.groups: dict[str, tuple[int, list[str]]] = {}
        self.name: str | None = None

    def is_new(self, name: str) -> bool:
        full = len(self.witnesses) >= 32 or len(self.groups) >= 32
        return not full and name != "none" and name not in {**self.witnesses, **self.groups}

    def line(self, words: list[str]) -> None:
        if words[0] == "quorum" and len(words) == 2:
            need(self.name is None and words[1] in {**self.witnesses, **self.groups})
            self.name = words[1]
            return
        need(words[0] == "group" and len(words) >= 4)
        name, many, *members = words[1:]
        need(self.is_new(name))
        need(many in {"all", "any"} or re.fullmatch("[1-9][0-9]{0,2}", many) is not None)
        threshold = {"all": len(members), "any": 1}.get(many) or int(many)
        need(threshold <= len(members) and len(set(members)) == len(members))
        taken = {each for _, others in self.groups.values() for each in others}
        for member in members:
            need(member in {**self.witnesses, **self.groups} and member not in taken)
        self.groups[name] = threshold, members

    def enough(self, signed: Sequence[str]) -> bool:
        true = set(signed) & set(self.witnesses)
        for name, (threshold, members) in self.groups.items():
            if len(true & set(members)) >= threshold:
                true.add(name)
        return self.name in true


def policy(policy: str) -> Given:
    found = Policy(policy)
    assert found.log is not None and found.server is not None
    key, host, port = found.server
    told: Given = {"namespace": found.log[0], "directory": directory_of(found.log[1])}
    told |= {"log_key": found.log[1], "config": found.config, "server_key": key, "host": host}
    return told | {"port": port, "witnesses": list(found.witnesses.items())}


def directory_of(log_key: bytes) -> bytes:
    return kdf(b"", "cbfs1 directory", log_key, 16)


def quorum(policy: str, signed: list[str]) -> Given:
    found = Policy(policy)
    weaker = found.weaker.enough(signed) if found.weaker else None
    return {"enough": found.strict.enough(signed), "when_degraded": weaker}


def config(config: str) -> Given:
    """A text that must be in its one form: lines in their order, one space between words."""
    need(len(config) <= 8_192 and config.isascii())
    lines = config.split("\n")
    need(lines[0] == "cbfs1 names config" and lines[-1] == "")
    words = [line.split(" ") for line in lines[1:-1]]
    need(all(all(line) for line in words))
    order = ["log", "registration", "registrar", "short", "lifetime", "witness", "group", "quorum"]
    need(all(line[0] in order for line in words))
    places = [order.index(line[0]) for line in words]
    need(places == sorted(places) and all(places.count(n) == 1 for n in (0, 1, 3, 4, 7)))
    need(places.count(2) <= 1)
    told: Given = {"work": 0, "registrar": b""}
    rules = Quorum({})
    for first, *rest in words:
        _config_line(told, rules, first, rest)
    need(rules.name is not None and rules.enough(list(rules.witnesses)))
    need(bool(told["registrar"]) or told["registration"] != "invite")
    return told | {"hash": sha256(config.encode()).digest()}


def _config_line(told: Given, rules: Quorum, first: str, rest: list[str]) -> None:
    if first == "log":
        need(len(rest) == 1)
        told["namespace"], _ = vkey(rest[0], 1)
        namespace(told["namespace"])
    elif first == "registration":
        need(rest[0] in {"open", "invite", "work"} and len(rest) == 1 + (rest[0] == "work"))
        told["registration"] = rest[0]
        told["work"] = number(rest[1], 0, 40) if rest[1:] else 0
    elif first == "registrar":
        need(len(rest) == 1)
        told["registrar"] = unbase64(rest[0])
        need(len(told["registrar"]) == 32)
    elif first in {"short", "lifetime"}:
        need(len(rest) == 1)
        least, most = (3, 8) if first == "short" else (1, 100 * 365 * DAY)
        told[first] = number(rest[0], least, most)
    elif first == "witness":
        need(len(rest) == 2 and rules.is_new(rest[0]))
        _, key = vkey(rest[1], 4)
        need(key not in rules.witnesses.values())
        rules.witnesses[rest[0]] = key
    else:
        need(first != "group" or rest[1].isdigit())
        rules.line([first, *rest])


def number(text: str, least: int, most: int) -> int:
    need(re.fullmatch("0|[1-9][0-9]{0,11}", text) is not None)
    need(least <= int(text) <= most)
    return int(text)


def bits_asked(terms: Given, time: int, busy: int) -> int:
    waiting, bits = max(busy - time, 0), 18 if terms["registration"] == "open" else terms["work"]
    at = 256
    while waiting >= at:
        bits, at = bits + 1, 2 * at
    return int(min(bits, 40))


def asked(config_: str, time: int, busy: int) -> Given:
    bits = bits_asked(config(config_), time, busy)
    return {"bits": bits, "after": max(busy, time) + 1}


def admission(config_: str, commit: bytes, time: int, busy: int) -> Given:
    terms, asked = config(config_), operation(commit)
    if not asked["invite"]:
        need(asked["signers"] == [], "WRONG_SIGNATURE")
        need(terms["registration"] != "invite", "INVITE_NEEDED")
        need(work(commit, bits_asked(terms, time, busy)), "WORK_NEEDED")
        return {"granted": None}
    try:
        need(terms["registrar"] != b"")
        told = invite(asked["invite"], terms["registrar"])
        need(told["directory"] == asked["directory"] and time <= told["expires"])
    except Wrong:
        raise Wrong("INVITE_NEEDED") from None
    need(asked["genuine"] and asked["signers"] == [told["key"]], "WRONG_SIGNATURE")
    return {"granted": told["person"]}


def _admission(**given: Any) -> Given:
    """The field ``config`` is called as a function here."""
    return admission(given.pop("config"), **given)


def _asked(**given: Any) -> Given:
    return asked(given.pop("config"), **given)


def turn(what: str, time: int, used: int) -> Given:
    pace = 3_600 if what == "UPDATE" else 86_400
    need(used <= time + 7 * pace, "CHANGED_OFTEN")
    return {"after": max(used, time) + pace}


READERS: Readers = {
    ("names-registration", "turn"): turn,
    ("names-registration", "admission"): _admission,
    ("names-registration", "work asked"): _asked,
    ("names-policies", "policy"): policy,
    ("names-policies", "quorum"): quorum,
    ("names-policies", "configuration"): config,
}
