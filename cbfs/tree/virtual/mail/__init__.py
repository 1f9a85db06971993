"""mail/: all messages as a Maildir, made when somebody looks, of which nothing is stored but what
mail programs note of messages, their flags, and what a listing tells of them, so that it is quick.

In come messages from the store, and the names that mail programs give them; out go mails
(RFC 5322), and what the user has read or deleted. Entered by the tree, and through its face by
mount.
"""
