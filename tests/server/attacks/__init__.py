"""Attacks on a running server, each beside an honest client whose deliveries are timed.

``.venv/bin/python -m tests.server.attacks [NAME...]`` makes them at the size that a stranger on the
network can, prints what the honest client found, and ends with 1 when that is not good enough. What
they found is held by small versions in ``tests/server``, which judge by counts and order.
"""
