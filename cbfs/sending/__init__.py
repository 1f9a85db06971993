"""From the queues to the recipients' servers: messages are composed, sealed for each recipient and
delivered; cover traffic.

In come messages that were written, and queues in the store; out go envelopes, and reports of what
became of them. Stands on interface, context, contacts, messages, network, problems and storage.
Entered by receiving and the engine.
"""

FACE = ("compose", "cover_traffic", "note_clock", "reminders", "sender", "uploads")
