"""What a client of the name directory checks once more, straight from the text of
protocol/names.rst: what operations make of entries, answers, polls and bundles. Each kind of case
of their vectors. Nothing of cbfs_common."""

from collections.abc import Callable, Sequence
from typing import Any

from tests.support.naive_layouts import Bytes, Wrong, need
from tests.support.naive_messages import Given
from tests.support.naive_names import (
    encoded_keys,
    entry,
    index,
    long,
    operation,
    prove_last,
    prove_map,
    short,
    verify,
)
from tests.support.naive_policies import Policy, directory_of
from tests.support.naive_rounds import (
    REPLIES,
    checkpoint,
    cosigned,
    key_id,
    note,
    position_added,
    position_root,
    read_evidence,
    read_links,
    reader,
    round_,
    size_of,
    state,
    tile,
)
from tests.support.vectors import Readers

DAY = 86_400

# What operations make of entries


def refuse(right: bool, reason: str) -> None:
    if not right:
        raise Wrong(reason)


def encoded(e: Given) -> bytes:
    """An entry's bytes."""
    data: bytes = (
        b"\x01"
        + short(e["person"].encode())
        + b"".join(e[name].to_bytes(4, "big") for name in ("incarnation", "version"))
        + bytes([e["status"]])
        + b"".join(e[name].to_bytes(8, "big") for name in ("expires", "round"))
        + e["previous"]
        + b"".join(encoded_keys(e[name]) for name in ("owners", "recovery", "heirs"))
        + e["due"].to_bytes(8, "big")
        + short(e["agent"])
        + long(e["profile"])
    )
    return data


ACTIVE, FROZEN, RELEASED, SUSPENDED = 1, 2, 3, 4
NOBODY: tuple[int, list[bytes]] = (0, [])


def signed_by(o: Given, *sets: Any) -> bool:
    """Whether each of these keys have signed to their threshold, and nobody else."""
    signers = set(o["signers"])
    enough = all(len(signers & set(keys)) >= threshold for threshold, keys in sets)
    return o["genuine"] and enough and signers <= {key for _, keys in sets for key in keys}


def settled(e: Given, time: int) -> Given:
    if not e["heirs"][1] or time < e["due"]:
        return e
    return e | {"status": ACTIVE, "owners": e["heirs"], "heirs": NOBODY, "due": 0, "agent": b""}


def step(directory: bytes, before: bytes, link: bytes) -> Given:
    fields = Bytes(link)
    round, time, data = fields.u(8), fields.u(8), fields.long()
    fields.end()
    o, e = operation(data), entry(before)
    need(o["what"] not in {"COMMIT", "REGISTER", "CONFIGURE"})
    refuse(o["directory"] == directory, "WRONG_DIRECTORY")
    last = 2**64 - 1 if o["what"] == "FREEZE" else round + 65_536
    refuse(round <= o["expires"] <= last, "OUT_OF_DATE")
    refuse(o["person"] == e["person"], "NO_SUCH_NAME")
    free = o["what"] == "FREEZE"
    made = (0, bytes(32)) if free else (e["version"] + 1, e["hash"])
    refuse((o["version"], o["previous"]) == made, "WRONG_VERSION")
    refuse(o["incarnation"] == e["incarnation"], "WRONG_VERSION")
    refuse(e["status"] != RELEASED, "NAME_RELEASED")
    refuse(time <= e["expires"] + 30 * DAY, "NAME_EXPIRED")
    now = settled(e, time)
    after = now | _changes(now, o, time)
    after |= {"version": e["version"] + 1, "round": round, "previous": e["hash"]}
    return {"after": encoded(after)}


def _changes(now: Given, o: Given, time: int) -> Given:
    what, agent = o["what"], bool(now["agent"]) and o["signers"] == [now["agent"]]
    agent = agent and o["genuine"]
    refuse(now["status"] != FROZEN or what == "RECOVER", "NAME_FROZEN")
    if now["status"] == SUSPENDED:
        ends = what in {"RECOVER", "ROTATE"} or (what == "FREEZE" and not agent)
        refuse(ends and not (what == "ROTATE" and o["agent"] == now["agent"]), "NAME_SUSPENDED")
    if what == "RECOVER":
        refuse(bool(now["recovery"][1]), "NO_RECOVERY")
        refuse(signed_by(o, now["recovery"], o["owners"]), "WRONG_SIGNATURE")
        return {"heirs": o["owners"], "due": time + 7 * DAY}
    if what == "CANCEL":
        refuse(bool(now["heirs"][1]), "NO_RECOVERY")
    sets = [now["owners"], o["owners"]] if what == "ROTATE" else [now["owners"]]
    allowed = signed_by(o, *sets) or (agent and what in {"RENEW", "FREEZE"})
    refuse(allowed, "WRONG_SIGNATURE")
    if what == "ROTATE":
        keys = {name: o[name] for name in ("owners", "recovery", "agent", "profile")}
        return {"status": ACTIVE, **keys}
    if what == "RENEW":
        refuse(o["until"] > now["expires"], "WRONG_TERM")
        return {"expires": o["until"]}
    if what == "RELEASE":
        ended = {"heirs": NOBODY, "due": 0, "profile": b""}
        return {"status": RELEASED, "expires": min(time, now["expires"]), **ended}
    none: Given = {"heirs": NOBODY, "due": 0}
    return {
        "UPDATE": {"profile": o["profile"]},
        "FREEZE": {"status": SUSPENDED if agent else FROZEN},
        "CANCEL": none,
    }[what]


def register(
    before: bytes | None, operation_: bytes, round: int, time: int, lifetime: int
) -> Given:
    o, incarnation, previous = operation(operation_), 1, bytes(32)
    need(o["what"] == "REGISTER")
    if before is not None:
        e = entry(before)
        free = e["expires"] + (90 if e["status"] == RELEASED else 120) * DAY
        refuse(time > free, "NAME_TAKEN")
        incarnation, previous = e["incarnation"] + 1, e["hash"]
    made = o["incarnation"], o["version"], o["previous"]
    refuse(made == (incarnation, 1, previous), "WRONG_VERSION")
    refuse(signed_by(o, o["owners"]), "WRONG_SIGNATURE")
    kept = {name: o[name] for name in ("person", "owners", "recovery", "agent", "profile")}
    after = {**kept, "incarnation": incarnation, "version": 1, "previous": previous, "due": 0}
    after |= {"status": ACTIVE, "expires": time + lifetime, "round": round, "heirs": NOBODY}
    return {"after": encoded(after)}


def succession(directory: bytes, known: bytes, entry_: bytes, links: Sequence[bytes]) -> Given:
    old, new = entry(known), entry(entry_)
    refuse(old["incarnation"] == new["incarnation"], "changed")
    if old["version"] == new["version"]:
        refuse(old["hash"] == new["hash"], "SAME_VERSION")
        return {}
    steps = new["version"] - old["version"]
    refuse(0 < steps <= len(links), "CHAIN")
    at, recovered = known, False
    for link in links[-steps:]:
        before, time = entry(at), int.from_bytes(link[8:16], "big")
        recovered |= settled(before, time)["owners"] != before["owners"]
        try:
            at = step(directory, at, link)["after"]
        except Wrong:
            raise Wrong("CHAIN") from None
    refuse(at == entry_, "CHAIN")
    refuse(not recovered, "changed")
    return {}


# Answers


class Head:
    """A head, its round, and the proof that this is the last one, with checks 1 to 3."""

    def __init__(
        self, text: str, weaker: bool, note_: bytes, leaf: bytes, proof: list[bytes]
    ) -> None:
        found = Policy(text)
        assert found.log is not None
        self.directory = directory_of(found.log[1])
        self.rules = found.weaker if weaker and found.weaker else found.strict
        self.proof = proof
        try:
            signed = note(note_)
            self.checkpoint = checkpoint(signed["text"])
            self.round = round_(leaf)
        except Wrong:
            raise Wrong("MALFORMED") from None
        names = found.key_names(text)
        lines = {(name, id): signature for name, id, signature in signed["lines"]}
        log = lines.get((found.log[0], key_id(found.log[0], 1, found.log[1])))
        self.times: dict[str, int] = {}
        if log is not None:
            _signature(found.log[1], signed["text"].encode(), log)
        for witness, key in found.witnesses.items():
            line = lines.get((names[witness], key_id(names[witness], 4, key)))
            if line is not None:
                refuse(len(line) == 72, "MALFORMED")
                time = int.from_bytes(line[:8], "big")
                refuse(time < 2**63, "MALFORMED")
                _signature(key, cosigned(time, signed["text"]), line[8:])
                self.times[witness] = time
        refuse(log is not None and self.rules.enough(list(self.times)), "QUORUM")
        name = found.log[0]
        refuse(self.checkpoint["origin"] == name == self.round["namespace"], "NAMESPACE")
        refuse(self.round["config_hash"] == found.config, "CONFIG")

    def time(self, floor: int, now: int) -> int:
        """Check 4."""
        newest = sorted(self.times, key=lambda name: -self.times[name])
        taken: list[str] = []
        for name in newest:
            if self.times[name] <= now + 60:
                taken.append(name)
            if self.rules.enough(taken):
                break
        refuse(self.rules.enough(taken), "FUTURE")
        time = self.times[taken[-1]]
        refuse(time >= now - 300, "STALE")
        refuse(time >= floor or floor > now + 60, "CLOCK")
        return time

    def position(self) -> bytes:
        """Check 5; the position after the round."""
        size, leaf = self.checkpoint["size"], self.round["hash"]
        refuse(self.round["number"] == size - 1, "LAST_ROUND")
        try:
            prove_last(size - 1, size, leaf, self.proof, self.checkpoint["root"])
        except Wrong:
            raise Wrong("LAST_ROUND") from None
        before = (size - 1).to_bytes(8, "big") + b"".join(reversed(self.proof))
        return position_added(before, leaf)


def _signature(key: bytes, message: bytes, signature: bytes) -> None:
    try:
        refuse(len(signature) == 64, "refused")
        verify(key, message, signature)
    except Wrong:
        raise Wrong("SIGNATURE") from None


def encoded_state(s: Given) -> bytes:
    data: bytes = b"\x03" + s["directory"] + s["head"] + s["time"].to_bytes(8, "big") + s["feed"]
    return data + bytes([len(s["seen"])]) + b"".join(s["seen"])


def _seen(s: Given, position: bytes, time: int) -> Given:
    """Check 6; the state after it."""
    known = {size_of(each): each for each in (s["head"], *s["seen"])}
    refuse(size_of(position) >= max(known), "SMALLER")
    if size_of(s["head"]) == 0:
        return s | {"head": position, "feed": position, "time": time}
    same = known.setdefault(size_of(position), position)
    refuse(position_root(same) == position_root(position), "FORK")
    seen = [known[size] for size in sorted(known) if size != size_of(s["head"])]
    return s | {"seen": seen, "time": time}


def _entry(directory: bytes, evidence: list[Any], person: str | None) -> bytes | None:
    """Check 7."""
    _, leaf, _, proof, data = evidence
    try:
        found = entry(data) if data else None
    except Wrong:
        raise Wrong("MAP_PROOF") from None
    refuse(not (found and person) or found["person"] == person, "WRONG_NAME")
    where = index(directory, person or (found["person"] if found else ""))
    try:
        prove_map(round_(leaf)["map_root"], where, found["hash"] if found else None, proof)
    except Wrong:
        raise Wrong("MAP_PROOF") from None
    return data or None


def look_up(
    policy: str, state_: bytes, person: str, known: bytes | None, now: int, data: bytes
) -> Given:
    try:
        (evidence, links) = reader(REPLIES)(data)["fields"]
    except Wrong:
        raise Wrong("MALFORMED") from None
    before = state(state_)
    weaker = False
    try:
        after, directory = _headed(policy, False, before, evidence, now)
    except Wrong as error:
        if error.name not in {"QUORUM", "STALE"} or known is None or not Policy(policy).weaker:
            raise
        _, directory = _headed(policy, True, before, evidence, now)
        after, weaker = before, True
        refuse(_entry(directory, evidence, entry(known)["person"]) == known, error.name)
    found = _entry(directory, evidence, person)
    if found is None:
        refuse(known is None, "VANISHED")
    else:
        told = entry(found)
        refuse(told["expires"] >= now and told["status"] != RELEASED, "expired")
        if known is not None:
            age = told["incarnation"], told["version"]
            old = entry(known)
            refuse(age >= (old["incarnation"], old["version"]), "ROLLED_BACK")
            succession(directory, known, found, links)
    return {"after": encoded_state(after), "found": found, "degraded": weaker}


def _headed(
    policy: str, weaker: bool, s: Given, evidence: list[Any], now: int
) -> tuple[Given, bytes]:
    head = Head(policy, weaker, *evidence[:3])
    refuse(s["directory"] == head.directory, "NAMESPACE")
    time = head.time(s["time"], now)
    return _seen(s, head.position(), time), head.directory


def poll(policy: str, state_: bytes, now: int, data: bytes, tiles: list[bytes]) -> Given:
    try:
        leading = reader(REPLIES)(data)["fields"]
    except Wrong:
        raise Wrong("MALFORMED") from None
    s = state(state_)
    head = Head(policy, False, *leading)
    refuse(s["directory"] == head.directory, "NAMESPACE")
    time = head.time(s["time"], now)
    position = head.position()
    newest = (s["head"], *s["seen"])[-1]
    refuse(size_of(position) >= size_of(newest), "SMALLER")
    rounds = _rounds(s["feed"], tiles)
    changed: dict[bytes, int] = {}
    for at in (s["feed"], s["head"], *s["seen"]):
        found = _followed(at, rounds, position)
        changed = changed or found
    after = s | {"head": position, "feed": position, "time": time, "seen": []}
    return {"after": encoded_state(after), "changed": sorted(changed.items())}


def _rounds(feed: bytes, tiles: list[bytes]) -> dict[int, tuple[bytes, list[bytes]]]:
    rounds: dict[int, tuple[bytes, list[bytes]]] = {}
    for number, data in enumerate(tiles, size_of(feed) // 64):
        try:
            told = tile(number, data)["rounds"]
        except Wrong:
            raise Wrong("FEED") from None
        rounds |= {number: (leaf, changes) for number, leaf, changes in told}
    return rounds


def _followed(
    position: bytes, rounds: dict[int, tuple[bytes, list[bytes]]], end: bytes
) -> dict[bytes, int]:
    """What these rounds have changed; they must lead from one position to the other."""
    changed: dict[bytes, int] = {}
    for number in range(size_of(position), size_of(end)):
        refuse(number in rounds, "FEED")
        leaf, changes = rounds[number]
        position = position_added(position, leaf)
        changed |= dict.fromkeys(changes, number)
    refuse(position_root(position) == position_root(end), "FORK")
    return changed


# Bundles


def bundle(policy: str, bundle: bytes, known: bytes | None) -> Given:
    try:
        need(len(bundle) <= 3_072)
        fields = Bytes(bundle)
        need(fields.u(1) == 1)
        directory, evidence, links = fields.take(16), read_evidence(fields), read_links(fields)
        fields.end()
        need(evidence[4] != b"")
    except Wrong:
        raise Wrong("MALFORMED") from None
    log = Policy(policy).log
    assert log is not None
    refuse(directory == directory_of(log[1]), "NAMESPACE")
    head = Head(policy, False, *evidence[:3])
    position = head.position()
    found = _entry(directory, evidence, None)
    assert found is not None
    if known is not None:
        told, old = entry(found), entry(known)
        refuse(told["person"] == old["person"], "WRONG_NAME")
        older = (told["incarnation"], told["version"]) < (old["incarnation"], old["version"])
        if not older:
            succession(directory, known, found, links)
    return {"entry": found, "position": position}


def current(policy: str, state_: bytes, shown: bytes, tiles: list[bytes]) -> Given:
    told = bundle(policy, shown, None)
    s = state(state_)
    rounds = _rounds(told["position"], tiles)
    changed = _followed(told["position"], rounds, s["feed"])
    here = index(s["directory"], entry(told["entry"])["person"])
    return {"current": here[:8] not in changed}


def _renamed(read: Callable[..., Given], **names: str) -> Callable[..., Given]:
    """The names of fields that are names of functions here."""

    def renamed(**given: Any) -> Given:
        return read(**{names.get(name, name): value for name, value in given.items()})

    return renamed


READERS: Readers = {
    ("names-chains", "step"): step,
    ("names-chains", "registration"): _renamed(register, operation="operation_"),
    ("names-chains", "succession"): _renamed(succession, entry="entry_"),
    ("names-lookups", "look-up"): _renamed(look_up, state="state_"),
    ("names-lookups", "poll"): _renamed(poll, state="state_"),
    ("names-bundles", "bundle"): bundle,
    ("names-bundles", "current"): _renamed(current, state="state_", bundle="shown"),
}
