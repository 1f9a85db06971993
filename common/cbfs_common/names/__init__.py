"""The name directory's protocol: entries, operations, the map and the log with their proofs,
receipts, and what clients and servers say to each other. Bytes to values and back, and checks; no
I/O."""
