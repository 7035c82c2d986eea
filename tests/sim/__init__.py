"""The simulator: a whole cluster in one thread and one seed, with everything that can go wrong.

    python -m tests.sim --seed 7 --trace               # what happened in one run
    python -m tests.sim --count 10000 --jobs 2         # many; the same command goes on where it stopped
    python -m tests.sim --profile each --count 11000   # one kind of fault after the other
    python -m tests.sim --crash-points --jobs 2        # a crash at every effect of a scripted run
    python -m tests.sim --mutants --table --jobs 2     # whether mistakes would be found

Real here: the replication core, the log and the snapshots with all their files, the queue machine, the dispatcher.
Simulated: disks (`tests.disk`), network, clocks, processes, clients. Virtual time only passes from one event to the
next.

- `world`: time, chance, trace. `network`, `node`, `log_thread`: what a machine is. `driver`: the loop that the core
  demands.
- `entries`, `snapshots`: how entries and states become bytes. `service`: the pipeline of a broker in miniature.
- `clients`: who uses it. `faults`: what goes wrong, in families and named profiles. `damage`: disks that lose what was
  durable. `simulation`: one run from the first start to the account. `crash_points`: the scripted run.
- `answers`: that nobody who asked is forgotten. `truth`: invariants at every step. `delivery`: the properties of ZAB,
  by a ledger of its own. `bounds`: what must stay small. `history`: the account at the end. `features`: what clients
  use of queues beside the plain, in half of the seeds; `full_account`: the account of that, which has the naive world
  of the queue machine follow the history.
- `once`, `once_clients`, `once_account`: ids, transactions, half messages, names of producers, in most of those seeds.
- `campaign`: many seeds. `report`: what is told of a failing one, and how it is made small. `mutants`: mistakes that
  must be found; `hunt` finds them and writes `MUTANTS.md`.

The invariants are named as in the replication notes of the project: I1 to I19 at every step, E1 to E8 at the end. I20
to I24 are about what has to happen once, see `once_account`.

E1 is not a step of its own: power cuts fall into starts too (`power_in_start`), and every start must find what was
durable. E6 is a test: two processes, one seed, one digest.
"""
