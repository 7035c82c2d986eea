"""The entry point of `sluicemq`: sees to Ctrl-C first, then imports the program and runs it.

A person who presses Ctrl-C at once, while imports still run, must not get their traceback. So this module imports next
to nothing before it has answered for that; what the commands are stands in `sluicemq.broker.commands.program`. What
Python does before it runs this module is beyond us: some ten milliseconds in which it prints a traceback of its own.
"""

from __future__ import annotations

from sluicemq.broker.commands.interrupts import end_at_once


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    end_at_once()
    from sluicemq.broker.commands.program import command

    try:
        command.main(prog_name="sluicemq")
    finally:
        # The interpreter's own end is no time for tracebacks either.
        end_at_once()


if __name__ == "__main__":
    main()
