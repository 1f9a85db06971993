"""The name directory's protocol. PROTOCOL.rst, Names.

In come bytes of a server, a peer or a file; out go entries, operations, signed heads, proofs in the
log and the map, receipts, what clients and servers say to each other, and whether all of that is as
it must be. No I/O. The client checks by it, the directory's servers work by it.
"""
