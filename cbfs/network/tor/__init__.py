"""Tor: found or started, asked through its control connection, dialled through, ended for certain;
which circuit carries what; and a private Tor network on loopback for trials.

In come onion addresses and names of isolation; out go streams and the state of Tor in words. Only
the room of the network and commands enter.
"""
