"""Proofs in the log of rounds. RFC 9162, 2.1 (the tree of RFC 6962) with SHA-256."""

from hashlib import sha256

from cbfs_common.names.layout import LOG_LEAF, LOG_NODE

PROOF_MAX = 64
"""Hashes in one proof: the log has less than 2^64 leaves."""

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """Hash (32) of a leaf's bytes."""
    return sha256(LOG_LEAF + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash (32) of two subtrees."""
    return sha256(LOG_NODE + left + right).digest()


def includes(index: int, size: int, leaf: bytes, proof: tuple[bytes, ...], root: bytes) -> bool:
    """Whether the leaf with hash ``leaf`` is number ``index`` of the ``size`` leaves under
    ``root``. RFC 9162, 2.1.3.2."""
    if not 0 <= index < size or len(proof) > PROOF_MAX:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and found == root


def extends(
    old_size: int, size: int, old_root: bytes, root: bytes, proof: tuple[bytes, ...]
) -> bool:
    """Whether the tree of ``size`` leaves only adds to the one of ``old_size`` (at least 1).
    RFC 9162, 2.1.4.2."""
    if not 0 < old_size <= size or len(proof) > PROOF_MAX:
        return False
    if old_size == size:
        return not proof and old_root == root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    at, last = old_size - 1, size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == root
