"""How long a test waits in real time for what must come, before it says that it does not come.

No test that passes takes nearly as long. On a machine with other things to do anything takes many times as long as it
does alone, so whoever measures how long something takes must not do it with this.
"""

WAIT_SECONDS = 60.0
