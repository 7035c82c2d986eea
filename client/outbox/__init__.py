"""The outbox: messages that are stored in the user's own SQL transaction, and relayed to the broker afterwards.

The way in for a reader: `face` (what users call), `statements` (the tables, and every statement; pure), `relay` (the
loop), `sending` (one claim's way to the broker), `verdicts` (what an error means for a row; pure), `database` (the
relay's own connections), `bell` (how it is woken).
"""
