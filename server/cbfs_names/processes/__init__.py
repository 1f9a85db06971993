"""What runs: the directory in one process, or each of its roles apart, with the votes, gossip and
receipts that go between them. In come a store, keys and the messages of others; out go rounds and
answers. Stands on rounds, wire and state. Entered by commands.
"""

FACE = ("roles", "single")
