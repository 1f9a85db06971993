"""The name directory as a client uses it: look-ups and the change feed with every proof checked,
the directories that an account follows, operations on own names, the own name compared with what
the directory has, and how far the own clock is to be believed.

In come names, and answers of servers that may lie; out go proven entries or refusals. Stands on
network and storage. Entered by contacts, context, the engine and commands.
"""

FACE = ("directory", "followed", "lookups", "own_name", "own_time")
