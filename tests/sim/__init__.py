"""The simulator: a whole cluster in one thread and one seed, with everything that can go wrong.

    python -m tests.sim --seed 7 --trace          # what happened in one run
    python -m tests.sim --count 10000             # many; goes on where it stopped
    python -m tests.sim --mutants                 # whether mistakes would be found

Real here: the replication core, the log and the snapshots with all their files, the queue machine, the dispatcher.
Simulated: disks (`tests.disk`), network, clocks, processes, clients. Virtual time only passes from one event to the
next.

- `world`: time, chance, trace. `network`, `node`, `log_thread`: what a machine is. `driver`: the loop that the core
  demands.
- `entries`, `snapshots`: how entries and states become bytes. `service`: the pipeline of a broker in miniature.
- `clients`: who uses it. `faults`: what goes wrong. `simulation`: one run from the first start to the account.
- `truth`: invariants at every step. `history`: the account at the end. `mutants`: mistakes that must be found.
"""
