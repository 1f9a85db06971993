"""Real programs that save files: how each is driven, and the table of what became of it."""
