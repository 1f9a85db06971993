"""The client at work: opens an account, keeps all of its tasks going, and is what the mount talks
to; what ends, is dated anew or renewed by itself, and whom one meets.

In come requests of the mount and an open account; out go reports, messages to be shown and
connections. Stands on receiving, all that receiving stands on, and names. Entered by commands
alone: the mount knows the engine by cbfs.interface.
"""

FACE = ("running",)
