"""Replication: several brokers hold the same log. This package decides everything and does nothing.

It is ZAB (Junqueira, Reed, Serafini: "Zab: High-performance broadcast for primary-backup systems", DSN 2011) with
four changes, each of which closes a class of bugs known from practice (smaller ones stand under "Where it leaves the
paper"):

- The new epoch is itself an entry of the log, `(e, 0)`, behind the history that was synchronized. One sync makes epoch
  and history durable together; they can never disagree, and "the epoch of a replica" is the epoch of its last entry.
- ACK and COMMIT are cumulative. ACK `(e, 0)` is the ACK of NEWLEADER; nothing is matched with anything in a queue.
- An election, and what a learner tells its leader, speaks of durable positions only, after the disk has come to rest.
- Every message names its epoch, its connection and its session. What is of another is dropped before anything changes.

The driver loop
===============

A `Replica` is a pure state machine: `step(event, now)` returns what is to be done. A shell, be it a broker or a
simulator, runs this loop::

    replica = Replica(member, listed, promised_epoch, log_view, options)
    perform(replica.step(Start(), now()))
    while True:
        event = wait for whatever of `events` happens next, at most until `replica.wake_at` (then `Wake()`)
        perform(replica.step(event, now()))

`perform` does the effects in their order. The rules for a shell:

1. `now` is a monotonic clock in seconds. The core has no other clock, and no chance at all: the same events give the
   same effects.
2. Effects of the disk (`Join`, `SavePromise`, `Append`, `Truncate`, `InstallSnapshot`, `NoteRepaired`) form one queue,
   and are carried out and answered one after another with `Persisted(token)`. Consecutive appends may share one sync,
   and one answer for the last of them will do. A `Join` may drop what has not begun, except a promise. An error of log
   or superblock is `DiskFailed`; it is never retried.
3. `Send` leaves at once. Between two nodes there is one connection at a time with a number that both ends know and that
   never returns; messages arrive in order or the connection ends. Pings, pongs and notifications should overtake
   proposals, and so may what begins and ends a leadership (FollowerInfo, NewEpoch, HandOver), which must not come
   behind a later notification; all these in order among each other, and nothing else. Snapshots go on a stream of
   their own.
4. `PeerUp`, `PeerDown` and `PeerRefused` are told as they happen. A new connection to a peer is told after the end of
   the old one.
5. The log view shows all that was given to `Append`. The shell keeps what is not durable yet, or asks its log.
6. `Committed(z)`: apply up to z, but only what is durable here (the core sees to that). Snapshots hold committed
   entries only. Serve only after `RoleChanged(LEADING, BROADCAST)` and once everything committed by then is applied.
7. After `RoleChanged` to anything else, confirm and deliver nothing more; what was proposed and is not committed has an
   unknown outcome. It may still commit.
8. `Fatal`: end the process, with a dump of the state if its cause is `STATE`; what a restart may do, `Cause` says.
9. The entries of a `Propose` message: work out their chain hashes from `previous` and what came, and hand over only
   what matches the hash that came with them; else end the connection. The core compares positions, not contents.
10. Hash the state at the same places of the log on every replica, and tell (`StateHashed`).
11. A start that finds the log damaged notes so in the superblock, durably, before it makes the log end where it is
    good, and gives `damaged_from` to the `Replica` until `NoteRepaired` was carried out.

What must be durable before what leaves
=======================================

The core never emits a message before its condition holds, so there is nothing for a shell to hold back. (Rejected: to
attach messages to the effects they wait for. It saves one turn of the loop, and puts the rule that matters most
into every shell.)

====================================== ==============================================================================
message or action                      durable before it
====================================== ==============================================================================
vote in an election                    everything this replica ever appended: `Join` was answered
NewEpoch(e), AckEpoch(e)               the promise of e; `Join` was answered before the log's end was read
Propose                                nothing: the leader writes in parallel
Ack(z)                                 every entry up to z, and the truncation or snapshot before them
leader counts itself for z             its own entries up to z
Commit, Ping, Pong, Notification       nothing
Committed on a learner                 the entries here, and a quorum's, as the leader said
Committed on the leader                the entries here, and a quorum's, `(e, 0)` of its own epoch among them
ReadReady                              nothing; a quorum answered a ping sent after the read came
====================================== ==============================================================================

The phases
==========

Election (`election`, `looking`): LOOKING
    1. Disown what is under way on the disk and wait until it rests (`Join`).
    2. Fast leader election; the rules are listed in `election`.
    3. Whoever is elected leads, the others follow it. A node that is no voter waits for a leader and observes it.

Discovery (`discovery`): which epoch, and whose promise
    D1 Learner to leader: FollowerInfo with the epoch promised so far.
    D2 From a quorum of these the leader takes the highest, adds one, promises that itself, durably, then: NewEpoch(e).
    D3 Learner: e above the promise: promise it, durably, then AckEpoch with the rows of its log. e equal to the
       promise: AckEpoch that does not count, unless the promise was made to this very leader. e below: look again.
    D4 Leader: a learner whose log is longer: look again. A quorum of promises: establish, that is append `(e, 0)`.

Synchronization (`synchronization`, `following`): one history
    S1 Leader, per learner: plan from the rows of both logs (DIFF, TRUNC or SNAP), send Synchronize, and from then on
       everything after the planned position, old and new alike: `progress` says what was sent.
    S2 Learner: truncates or installs, durably, then appends; ACKs what is durable.
    S3 Leader: `(e, 0)` durable on a quorum: all history up to it is committed, and the leader serves.

Broadcast (`broadcast`, `progress`): one order
    B1 Leader: zxid is the next of the epoch; append and propose at once, without waiting for the disk.
    B2 Learner: append, sync (many with one), Ack(z).
    B3 Leader: whatever a quorum and the leader itself have durably, from `(e, 0)` on, is committed, with everything
       before it; learners hear of it with the next message, or after `tell_commit_seconds` without one.

Within broadcast also: reads (`reads`), changes of voters (`membership`, `changes`), handing over the lead and the
planned end of an epoch (`handover`), a leader whose own disk hangs (`own_disk`), states that differ (`agreement`).

Where it leaves the paper, or ZooKeeper
=======================================

- D4: the paper's leader fetches the best history of its quorum. Here the election finds the best, and a leader that
  meets a better one gives up.
- D3: a promise of e is counted once, for the leader that it was given to. A learner that has promised e to somebody
  else, or does not know any more to whom, is taught by a leader of e and counts for its commits, not for its start.
- S3: there is no UPTODATE. A learner serves what it knows to be committed; the leader serves when `(e, 0)` is.
- B3: the leader commits nothing that its own disk lacks, though a quorum has it: whoever applied it here could lose it.
  The price is a leader whose disk hangs; so it hands over after `own_disk_seconds`, without waiting to be ready.
- Election: who is elected is decided by last zxid and id; the epoch is the upper half of the zxid, so ZooKeeper's three
  criteria are two. Rounds are private; a vote never raises an epoch, so whoever comes back disturbs nobody.
- What keeps a leader in office is what learners say in its epoch. Introductions do not count: a learner that has
  promised more can introduce itself for ever.
- A change of voters needs both groups' quorums from the moment its record is appended, not from its commit, and can be
  taken back by the leader that began it (`changes`). ZooKeeper has one record and no way back.
- A learner whose log is damaged has no vote and its promise founds no epoch (it does not know what it has lost), until
  it has all that the leader had when it planned. Its acknowledgements count: what it has again, it has.
- A vote, a snapshot or a word that comes too early or twice is kept or dropped by its session, never an error.

Glossary
========

chain        Hash over all entries up to a position: equal chains, equal histories.
committed    Durable on a quorum under a leader whose `(e, 0)` is too: never lost, in every later leader's log.
connection   Between two nodes; its number never returns.
counter      Place of an entry in its epoch; 0 is the epoch record.
durable      Synced to the disk; survives the loss of power.
electorate   Whose votes a replica counts.
epoch        One leadership that had a quorum of promises. An epoch has at most one leader.
established  A leader with a quorum of promises: it has appended `(e, 0)`.
generation   Counts the stays in LOOKING; answers of the disk from before are ignored.
incarnation  Identity of a disk. A wiped disk gets a new one.
learner      Who is taught by a leader: followers, which vote, and observers, which do not.
promise      Not to listen to any leader of a lower epoch, nor to another one of this epoch.
quorum       A majority of the voters; of both the old and the new ones while they change.
round        Counts elections; private to them.
session      One learner's time with one leader, named by the learner.
zxid         `epoch << 32 | counter`: the name of an entry and its place in the order.
"""
