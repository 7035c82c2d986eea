"""`sluicemq bench`: how fast a broker is on this machine.

The way in: `plan` (what is measured), `worker` (the timed loops, a process each), `run` (starts everything and reads
the figures), `disk` (what the bare disk does), `figures` (from samples to numbers), `report` (what the user sees).
"""
