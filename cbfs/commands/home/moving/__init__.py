"""An account moves to another computer: from its directory on the old one, through a connection
that both have proved a line's secret for, into a directory on the new one.

In come an account that is not mounted and a line; out goes the account, which lives in one of the
two places at any moment. Only commands enters.
"""
