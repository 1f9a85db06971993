"""Virtual directories and files: conversations, people, requests, search, unread, quarantine, and
the texts that settings are written in. Made from records when somebody looks.

In comes a transaction of the store; out go entries and bytes, and what a program has decided by
what it wrote. Entered as the room of the tree is.
"""
