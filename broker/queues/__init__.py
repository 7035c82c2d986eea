"""The queue machine: entries of the log go in one by one, verdicts and effects come out.

Everything here is pure: no event loop, no file, no socket, no clock, no randomness; time comes in with the entries.
The way in for a reader: `entries` (what the log says), `machine` (what it means), `queue` and `leases` (where messages
are), `dispatch` and `outstanding` (what only a leader keeps). The currency everywhere is the run (`runs`).
"""
