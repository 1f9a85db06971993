"""Makes what is given to others: see ``./run package``."""
