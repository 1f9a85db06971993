"""Primitives, profiles, prekeys and messages once more, straight from the text of
protocol/sessions.rst: each kind of case of the vectors. Nothing of cbfs_common.

Errors are those of the text, in the order in which a straight reading finds them.
"""

import base64
import ipaddress
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.poly1305 import Poly1305
from kyber_py.ml_kem import ML_KEM_768
from nacl import bindings
from nacl.exceptions import RuntimeError as SodiumError

from tests.support.naive_layouts import (
    Bytes,
    Wrong,
    is_bytes,
    is_number,
    is_text,
    messagepack,
    need,
)
from tests.support.vectors import Readers
from tests.vectors.make_ed25519 import is_valid

Given = dict[str, Any]
LISTS = ("received", "wanted", "offered", "taken_back")


def kdf(key: bytes, label: str, data: bytes, size: int) -> bytes:
    padded = label.encode().ljust(16, b"\0")
    return blake2b(data, digest_size=size, key=key, person=padded).digest()


def dh(secret: bytes, public: bytes) -> bytes:
    try:
        shared = bindings.crypto_scalarmult(secret, public)
    except SodiumError:
        raise Wrong("refused") from None
    need(any(shared), "refused")
    return shared


def check_ek(ek: bytes) -> None:
    """FIPS 203, 7.2: 768 numbers of 12 bits, each below 3329, and 32 bytes."""
    need(len(ek) == 1_184, "refused")
    bits = int.from_bytes(ek[:1_152], "little")
    need(all(bits >> 12 * n & 0xFFF < 3_329 for n in range(768)), "refused")


def encapsulate(ek: bytes, m: bytes) -> Given:
    check_ek(ek)
    shared, ct = ML_KEM_768._encaps_internal(ek, m)
    return {"shared": shared, "ct": ct}


def decapsulate(seed: bytes, ct: bytes) -> bytes:
    shared: bytes = ML_KEM_768.decaps(ML_KEM_768.key_derive(seed)[1], ct)
    return shared


def unseal(key: bytes, sealed: bytes, data: bytes = b"") -> bytes:
    need(len(sealed) >= 16, "refused")
    try:
        return ChaCha20Poly1305(key[:32]).decrypt(key[32:44], sealed, data)
    except InvalidTag:
        raise Wrong("refused") from None


def _messagepack(data: bytes) -> Given:
    messagepack(data)
    return {}


def check_name(name: Any) -> None:
    need(isinstance(name, str) and 3 <= len(name) <= 32)
    need(all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-_" for letter in name))
    need(all(word for word in re.split("[-_]", name)))
    need(not re.fullmatch("con|prn|aux|nul|com[0-9]|lpt[0-9]", name))


def check_host(host: str) -> None:
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise Wrong("malformed") from None
        need(str(address) == host and not address.scope_id and address.ipv4_mapped is None)
        return
    need(1 <= len(host) <= 253 and set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-"))
    need(host[0] not in ".-" and host[-1] not in ".-")


def profile(encoded: bytes) -> Given:
    need(len(encoded) <= 1_024)
    fields = Bytes(encoded)
    version = fields.u(1)
    need(version > 0)
    told: Given = {
        name: fields.take(32) for name in ("user_id", "signing", "auth", "kem", "server_key")
    }
    told["version"] = version
    told["port"] = fields.u(2)
    host = fields.rest.split(b"\0")[0] if version > 1 else fields.rest
    need(told["port"] > 0 and host.isascii())
    told["host"] = host.decode()
    check_host(told["host"])
    return told


def identity(log_key: bytes, person: str, signing: bytes, auth: bytes, kem: bytes) -> Given:
    directory = kdf(b"", "cbfs1 directory", log_key, 16)
    data = directory + bytes([len(person)]) + person.encode() + signing + auth + kem
    return {"directory": directory, "identity": kdf(b"", "cbfs1 identity", data, 32)}


def _name(text: str) -> Given:
    check_name(text)
    return {}


def address(text: str) -> Given:
    places = r"(?:\[([0-9a-f:]+)\]|([^:\[\]]+)):([1-9][0-9]*)"
    found = re.fullmatch("cbfs://([a-z2-7]{52})@" + places, text)
    need(found is not None)
    assert found is not None
    key = base64.b32decode(found[1].upper() + "====")
    need(base64.b32encode(key).decode().rstrip("=").lower() == found[1])
    host, port = found[2] or found[3], int(found[4])
    need(port < 65_536 and (":" in host) == bool(found[2]))
    check_host(host)
    return {"key": key, "host": host, "port": port}


def record(record: bytes, signing: bytes, now: int) -> Given:
    need(len(record) == 1_305)
    fields = Bytes(record)
    told: Given = {"id": fields.take(16), "prekey_kind": fields.u(1), "expires": fields.u(8)}
    told |= {"x": fields.take(32), "ek": fields.take(1_184)}
    need(told["prekey_kind"] in {1, 2})
    need(is_valid(signing, b"cbfs1 prekey" + record[:1_241], fields.rest), "refused")
    need(now < told["expires"], "refused")
    dh(b"\x08" + bytes(30) + b"\x40", told["x"])
    check_ek(told["ek"])
    return told


def made(
    signing_seed: bytes, id: bytes, prekey_kind: int, expires: int, x_secret: bytes, kem_seed: bytes
) -> Given:
    ek, _ = ML_KEM_768.key_derive(kem_seed)
    terms = id + bytes([prekey_kind]) + expires.to_bytes(8, "big")
    terms += bindings.crypto_scalarmult_base(x_secret) + ek
    _, secret = bindings.crypto_sign_seed_keypair(signing_seed)
    return {"record": terms + bindings.crypto_sign(b"cbfs1 prekey" + terms, secret)[:64]}


def static_key(ek: bytes, kem: bytes) -> Given:
    need(kdf(b"", "cbfs1 kem id", ek, 32) == kem, "refused")
    check_ek(ek)
    return {}


# Messages


def _body(body: bytes, kinds: Sequence[int]) -> list[Any]:
    need(len(body) <= 12_710)
    fields = messagepack(body)
    need(isinstance(fields, list) and len(fields) >= 2 and all(type(f) is int for f in fields[:2]))
    need(fields[0] == 1 and fields[1] in {1, 2, 3, 4, 5, 6}, "later")
    assert fields[1] in kinds
    found: list[Any] = fields
    return found


def part(body: bytes, sender: bytes) -> Given:
    fields = _body(body, (1, 3, 4, 5, 6))
    need(len(fields) == 19)
    names = ["kind", "salt", "conversation", "parents", "participants", "subject", "date"]
    names += ("file_name", "number", "count", "size", "digest", "chunk", "bundle", "lifetime")
    told = dict(zip([*names, "change", "note", "root"], fields[1:], strict=True))
    need(all(is_bytes(told[name], 16) for name in ("salt", "conversation")))
    people = told["participants"]
    need(isinstance(people, list) and 2 <= len(people) <= 50)
    for each in people:
        need(isinstance(each, bytes) and len(each) > 16 and each[16:].isascii())
        check_name(each[16:].decode())
    need(people == sorted(set(people)))
    _parents(told["parents"], people)
    need(is_text(told["subject"], 200) and is_text(told["file_name"], 255))
    need(is_number(told["date"], 253_402_300_799_999) and is_bytes(told["digest"], 32))
    need(told["kind"] not in {3, 6} or told["file_name"] != "")
    need(told["kind"] != 4 or (told["file_name"] == "" and told["count"] == 1))
    need(told["root"] == b"" or is_bytes(told["root"], 16))
    need(isinstance(told["bundle"], bytes) and len(told["bundle"]) <= 3_072)
    if told["kind"] in {5, 6}:
        need(
            is_number(told["size"], 2**32)
            and told["size"] > 2**20
            and (told["number"], told["count"]) == (0, 1)
        )
        need(
            isinstance(told["chunk"], bytes) and type(told["number"]) is type(told["count"]) is int
        )
        _reference(told["chunk"], told)
    else:
        _share(told)
    need(is_number(told["change"], 4_294_967_295) and is_number(told["lifetime"], 366 * 86_400))
    need(told["lifetime"] == 0 or (told["lifetime"] >= 10 and told["change"] > 0))
    told |= _lists(told.pop("note"))
    said = [*fields[1:4], sender, *fields[4:9], *fields[11:13], *fields[15:17], fields[18]]
    told["hash"] = kdf(b"", "cbfs1 message", msgpack.packb(said), 32)
    told["parents"] = [(people[each[0]], each[1:]) for each in told["parents"]]
    return {**told, "id": told["hash"][:16]}


def _reference(chunk: bytes, told: Given) -> None:
    """That it is one to the content that the message says; all of it is read in naive_blobs."""
    need(106 < len(chunk) <= 1_024)
    need(chunk[32:64] == told["digest"] and int.from_bytes(chunk[64:72], "big") == told["size"])


def _parents(parents: Any, people: list[bytes]) -> None:
    need(isinstance(parents, list) and len(parents) <= 16)
    need(all(is_bytes(each, 33) and each[0] < len(people) for each in parents))
    need(len({each[1:] for each in parents}) == len(parents))


def _share(told: Given) -> None:
    """That this part can be one of those that its message is cut into."""
    number, count, size, chunk = (told[name] for name in ("number", "count", "size", "chunk"))
    need(is_number(count, 16_384) and is_number(number, count - 1))
    need(is_number(size, 64 * 1024 * 1024) and isinstance(chunk, bytes))
    if count == 1:
        need(len(chunk) == size)
    elif number < count - 1:
        need(0 < size - (count - 1) * len(chunk) <= len(chunk))
    else:
        others = (size - len(chunk)) // (count - 1)
        need(others * (count - 1) + len(chunk) == size and 0 < len(chunk) <= others)


def _lists(lists: Any) -> Given:
    need(isinstance(lists, list) and len(lists) == 4)
    need(all(isinstance(each, list) for each in lists))
    need(all(is_bytes(ref, 32) for each in lists for ref in each))
    need(all(len(set(each)) == len(each) for each in lists) and sum(map(len, lists)) <= 256)
    return dict(zip(LISTS, lists, strict=True))


def same_message(one: bytes, other: bytes) -> Given:
    return {"same": part(one, b"alice")["hash"] == part(other, b"alice")["hash"]}


def note(body: bytes) -> Given:
    fields = _body(body, (2,))
    need(len(fields) == 7)
    told = _lists(fields[2:6])
    (bundle,) = fields[6:]
    need(isinstance(bundle, bytes) and len(bundle) <= 3_072)
    return told | {"bundle": bundle}


def folder(head: bytes, size: int) -> Given:
    fields = Bytes(head)
    length = fields.u(4)
    need(length <= 1_024 * 1_024 and length == len(fields.rest))
    rows = messagepack(fields.rest)
    need(isinstance(rows, list) and 1 <= len(rows) <= 4_096)
    need(all(isinstance(row, list) and len(row) == 3 for row in rows))
    depths: list[int | None] = [0]
    seen, starts, at = set(), [], len(head)
    for parent, name, bytes_ in rows:
        need(is_number(parent, len(depths) - 1))
        depth = depths[parent]
        assert_name(name)
        need(depth is not None and depth < 16 and (parent, name) not in seen)
        need(bytes_ is None or is_number(bytes_, 64 * 1024 * 1024))
        seen.add((parent, name))
        depths.append(None if bytes_ is not None else (depth or 0) + 1)
        starts.append(at)
        at += bytes_ or 0
    need(at == size and any(row[2] is not None for row in rows))
    return {"rows": rows, "starts": starts}


def assert_name(name: Any) -> None:
    need(is_text(name, 255) and name not in {"", ".", ".."} and not set(name) & {"/", "\0"})


# Conversations


def derived(participants: list[bytes], subject: str, number: int) -> bytes:
    people = bytes([len(participants)])
    people += b"".join(p[:16] + bytes([len(p[16:])]) + p[16:] for p in participants)
    data = people + number.to_bytes(2, "big") + subject.encode()
    id = bytearray(kdf(b"", "cbfs1 talk id", data, 16))
    id[0] |= 0x80
    return bytes(id)


def going_on(root: bytes, participants: list[bytes], subject: str) -> bytes:
    people = bytes([len(participants)])
    people += b"".join(p[:16] + bytes([len(p[16:])]) + p[16:] for p in participants)
    id = bytearray(kdf(b"", "cbfs1 talk on", root + people + subject.encode(), 16))
    id[0] |= 0x80
    return bytes(id)


def may_go_on(id: bytes, **given: Any) -> Given:
    return {"may": id == going_on(**given)}


def may_have_id(id: bytes, participants: list[bytes], subject: str) -> Given:
    known = {derived(participants, subject, number) for number in range(256)}
    return {"may": id[0] < 0x80 or id in known}


def taken_over(seconds: int, change: int, told_seconds: int, told_change: int) -> Given:
    here, told = (change, seconds), (told_change, told_seconds)
    later = change < told_change <= change + 1_000
    shorter = (told_seconds or 10**12) < (seconds or 10**12)
    after = told if later or (told_change == change and shorter) else here
    return {"seconds_after": after[1], "change_after": after[0]}


def lifetime_set(seconds: int, change: int, wanted: int) -> Given:
    after = change if wanted == seconds else min(change + 1, 4_294_967_295)
    return {"seconds_after": wanted, "change_after": after}


def end(seconds: int, now: int, waits: bool) -> Given:
    wait = 7 * 86_400 if waits else 0
    return {"end": now + (seconds + wait) * 1_000 if seconds else 0}


READERS: Readers = {
    ("primitives", "kdf"): lambda **given: {"out": kdf(**given)},
    ("primitives", "x25519"): lambda **given: {"shared": dh(**given)},
    ("primitives", "ml-kem key"): lambda seed: {"ek": ML_KEM_768.key_derive(seed)[0]},
    ("primitives", "ml-kem encapsulation"): encapsulate,
    ("primitives", "ml-kem decapsulation"): lambda **given: {"shared": decapsulate(**given)},
    ("primitives", "seal"): lambda **given: {"plain": unseal(**given)},
    ("primitives", "poly1305"): lambda key, data: {"tag": Poly1305.generate_tag(key, data)},
    ("primitives", "messagepack"): _messagepack,
    ("profile", "profile"): profile,
    ("profile", "kem"): lambda ek: {"kem": kdf(b"", "cbfs1 kem id", ek, 32)},
    ("profile", "identity"): identity,
    ("profile", "name"): _name,
    ("profile", "address"): address,
    ("prekey", "record"): record,
    ("prekey", "made"): made,
    ("prekey", "static key"): static_key,
    ("message", "part"): part,
    ("message", "same message"): same_message,
    ("message", "note"): note,
    ("folder", "folder"): folder,
    ("conversation", "id"): lambda **given: {"id": derived(**given)},
    ("conversation", "random id"): lambda random: {"id": bytes([random[0] & 0x7F]) + random[1:]},
    ("conversation", "may have the id"): may_have_id,
    ("conversation", "id of one that goes on"): lambda **given: {"id": going_on(**given)},
    ("conversation", "may go on under the id"): may_go_on,
    ("conversation", "lifetime taken over"): taken_over,
    ("conversation", "lifetime set"): lifetime_set,
    ("conversation", "end"): end,
}
