"""Scenarios: readable runs of the replication core, each a text of commands with the trace that they leave.

A line at the margin is a command, the indented lines below it are what came of it, and `#` begins a comment. The
traces are written by `SLUICEMQ_TESTS_REWRITE=1 pytest tests/scenarios`, and reviewed as a difference: a change of the
core that changes what is said shows here, word by word. So they also document the protocol: each file opens with what
it shows.

Nothing happens by itself; `stage` lists the commands. Every step is checked against the invariants of one node and for
one committed history (`tests.broker.replication.walks.shell`).
"""
