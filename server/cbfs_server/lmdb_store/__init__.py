"""The store of one message server, on its own disk: mailboxes in LMDB with group commit, and how
much room there is. In come changes and questions by their names; the answers to questions are
there at once. Stands on ``store``. Only the program enters.
"""

FACE = ("store",)
