"""The message server: it keeps sealed envelopes and prekeys for accounts that it knows by keys
alone.

``sockets`` is the edge to the network, ``service`` answers requests, ``push`` tells subscribers,
``housekeeping`` forgets what is old, ``cli`` is the program,
``registrar`` invites to a name directory beside it. The room ``store`` has names for all
that is asked of a store, and ``lmdb_store`` is one.
"""
