"""Folders and files of the tree that are made from records when somebody looks: conversations and
their messages, people, message requests, search, unread messages, envelopes that could not be read,
and the two files that settings are written in.

In come transactions of the store, and what programs write into such files; out go entries and
bytes, and what the user has decided. Entered by the tree, and through its face by outbox and mount.
"""
