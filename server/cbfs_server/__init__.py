"""The message server: it keeps sealed envelopes and prekeys for accounts that it knows by keys
alone.

A flat package: ``sockets`` is the edge to the network, ``service`` answers requests, ``push`` tells
subscribers, ``store`` is on the disk, ``housekeeping`` forgets what is old, ``cli`` is the program.
"""
