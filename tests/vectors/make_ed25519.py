"""What ed25519.json holds, from the text of Primitives in the specification; see
tests.vectors.make.

Ed25519 in plain Python, by RFC 8032, with signatures that an honest signer never makes: where
libraries differ, all verifiers must agree all the same ("Taming the many EdDSAs", SSR 2020, has a
list of such cases). It shares nothing with cbfs_common, and asks no library.
"""

from functools import cache
from hashlib import blake2b, sha512
from itertools import count
from typing import Any

from tests.vectors.cases import Case, File, case

Point = tuple[int, int]
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
NEUTRAL: Point = (0, 1)


def x_of(y: int) -> int | None:
    """The even x of a point with this y, None when there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return x if x % 2 == 0 else P - x


def add(a: Point, b: Point) -> Point:
    t = D * a[0] * b[0] * a[1] * b[1] % P
    return (
        (a[0] * b[1] + b[0] * a[1]) * pow(1 + t, -1, P) % P,
        (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, -1, P) % P,
    )


def times(n: int, a: Point) -> Point:
    """n a, with one division at the end (RFC 8032, 5.1.4)."""
    total, double = (0, 1, 1, 0), (*a, 1, a[0] * a[1] % P)
    while n:
        if n & 1:
            total = _add(total, double)
        double, n = _add(double, double), n >> 1
    z = pow(total[2], -1, P)
    return total[0] * z % P, total[1] * z % P


Extended = tuple[int, int, int, int]


def _add(p: Extended, q: Extended) -> Extended:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def minus(a: Point) -> Point:
    return -a[0] % P, a[1]


def number(y: int, sign: int) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def encode(a: Point) -> bytes:
    return number(a[1], a[0] & 1)


def decode(data: bytes) -> Point | None:
    """The point of any encoding, canonical or not; None when there is none."""
    raw = int.from_bytes(data, "little")
    y, sign = raw & (2**255 - 1), raw >> 255
    x = x_of(y % P)
    if x is None:
        return None
    return (P - x) % P if sign else x, y % P


def hashed(r: bytes, a: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + a + message).digest(), "little") % L


@cache
def is_valid(a: bytes, message: bytes, signature: bytes) -> bool:
    """The rule, word by word."""
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    for point in (a, r):
        decoded = decode(point)
        if decoded is None or encode(decoded) != point or decoded == NEUTRAL:
            return False
        if times(L, decoded) != NEUTRAL:
            return False
    if s >= L:
        return False
    key = decode(a)
    assert key is not None
    difference = add(times(s, B), minus(times(hashed(r, a, message), key)))
    return encode(difference) == r


def equations(a: bytes, message: bytes, signature: bytes) -> str:
    """Which hold, when encodings are taken as they come."""
    key, commitment = decode(a), decode(signature[:32])
    if key is None or commitment is None:
        return "none"
    s, h = int.from_bytes(signature[32:], "little"), hashed(signature[:32], a, message)
    left = times(s, B)
    right = add(commitment, times(h, key))
    if left == right:
        return "both"
    return "with a cofactor" if times(8, left) == times(8, right) else "none"


def scalar(name: str) -> int:
    return int.from_bytes(blake2b(name.encode()).digest(), "little") % L


def _torsion() -> Point:
    """A point of order 8."""
    for y in count(2):
        x = x_of(y)
        if x is not None and times(4, times(L, (x, y))) != NEUTRAL:
            return times(L, (x, y))
    raise AssertionError


_BY = 4 * pow(5, -1, P) % P
_BX = x_of(_BY)
assert _BX is not None
B: Point = (_BX, _BY)
T = _torsion()
KEY, NONCE = scalar("key"), scalar("nonce")


def signed(
    why: str,
    *,
    a: Point | bytes | None = None,
    r: Point | bytes | None = None,
    extra: int = 0,
    key: int = KEY,
    nonce: int = NONCE,
    wanted: str | None = None,
) -> Case:
    """What somebody signs who shows ``a`` for his key and ``r`` for his commitment, and adds
    ``extra`` to S. ``wanted``: with the first message for which just these equations hold."""
    shown_a = a if isinstance(a, bytes) else encode(times(key, B) if a is None else a)
    shown_r = r if isinstance(r, bytes) else encode(times(nonce, B) if r is None else r)
    for attempt in range(4_096):
        message = f"message {attempt}".encode()
        s = (nonce + hashed(shown_r, shown_a, message) * key) % L + extra
        signature = shown_r + s.to_bytes(32, "little")
        if wanted is None or equations(shown_a, message, signature) == wanted:
            break
    else:
        raise AssertionError(why)
    return judged(why, shown_a, message, signature)


def judged(why: str, public: bytes, message: bytes, signature: bytes) -> Case:
    """The case of a signature: its name says which equations hold when encodings are taken as they
    come."""
    valid = is_valid(public, message, signature)
    name = f"{why} ({equations(public, message, signature)})"
    wrong: dict[str, Any] = {} if valid else {"error": "refused"}
    return case(name, public=public, message=message, signature=signature, **wrong)


def _small() -> list[tuple[str, bytes]]:
    """Every encoding of the points of small order, canonical or not."""
    found = []
    for n in range(8):
        x, y = times(n, T)
        order = {0: 1, 4: 2, 2: 4, 6: 4}.get(n, 8)
        for shown in (y, y + P):
            for sign in (0, 1):
                if shown < 2**255 and (x == 0 or sign == x & 1):
                    right = shown < P and sign == x & 1
                    word = "" if right else ", not canonical"
                    how = (", y + p" if shown >= P else "") + (", sign bit set" if sign else "")
                    found.append((f"order {order}, {n}{word}{how}", number(shown, sign)))
    return found


def make() -> File:
    mixed_a, mixed_r = add(times(KEY, B), T), add(times(NONCE, B), T)
    cases = [
        signed("what an honest signer makes"),
        signed("S + L", extra=L),
        signed("S + 2 L, bits of the last byte set", extra=2 * L),
        signed("S + 8 L", extra=8 * L),
        signed("A with a part of order 8", a=mixed_a, wanted="both"),
        signed("A with a part of order 8", a=mixed_a, wanted="with a cofactor"),
        signed("A with a part of order 2", a=add(times(KEY, B), times(4, T)), wanted="both"),
        signed("R with a part of order 8", r=mixed_r),
        signed("R with a part of order 2", r=add(times(NONCE, B), times(4, T))),
        signed("A and R with parts of order 8", a=mixed_a, r=mixed_r, wanted="both"),
        signed("A and R with parts of order 8", a=mixed_a, r=mixed_r, wanted="with a cofactor"),
    ]
    for why, shown in _small():
        cases.append(signed(f"A of {why}", a=shown, key=0, wanted="both"))
        cases.append(signed(f"R of {why}", r=shown, nonce=0))
    cases.append(signed("A and R of order 1", a=NEUTRAL, r=NEUTRAL, key=0, nonce=0))
    cases += [
        signed(f"A is y = {y} + p, sign {sign}, not canonical", a=number(y + P, sign))
        for y in (3, 18)
        for sign in (0, 1)
    ]
    cases += [signed(f"R is y = {y} + p, not canonical", r=number(y + P, 0)) for y in (3, 18)]
    cases.append(signed("A is on no point", a=number(2, 0)))
    cases.append(signed("R is on no point", r=number(2, 0)))
    for why, change in (("a bit of R", 0), ("a bit of S", 32), ("the sign of R", 31)):
        right = signed("")
        public, message = (bytes.fromhex(right[part]) for part in ("public", "message"))
        signature = bytearray.fromhex(right["signature"])
        signature[change] ^= 0x80 if change == 31 else 1
        cases.append(judged(f"{why} is changed", public, message, bytes(signature)))
    return {"signature": cases}


FILES = {"ed25519": make}
