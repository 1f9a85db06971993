"""What the message server asks of a store, whichever it is: changes and questions by name, and the
face that every store has. Knows neither LMDB nor PostgreSQL. Stands on no other room. Every other
room may enter.
"""

FACE = ("blobs", "fair_queue", "interface", "operations", "pricing", "room")
