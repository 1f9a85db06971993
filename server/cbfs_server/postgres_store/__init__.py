"""The message server's store in PostgreSQL, which several servers share: tables, statements,
connections that are given up when they are silent, and lanes that make the changes. Nothing else
of the server knows psycopg, which is an extra. Stands on the face of stores and on limits. Entered
by the program.
"""

FACE = ("store",)
