"""What inbox and outbox share: SQL as pure steps, and those who run them on the connections that users have.

A database library is recognised by the module of the connection that is passed, and imported by nobody here before
that: `sluicemq.client` must import where none is installed.
"""
