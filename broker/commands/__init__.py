"""The commands of `sluicemq`, one module a group of them; `program` finds them by name.

Importing a module of this package must stay cheap: click at the top, everything else inside the functions.
"""
