"""The client at work: opens an account, keeps all of its tasks going, and is what the mount talks
to.

In come requests of the mount and an open account; out go reports, messages to be shown and
connections. Stands on receiving and all that receiving stands on. Only commands enters: the mount
knows the engine by its interface.
"""
