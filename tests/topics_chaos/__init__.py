"""The chaos test of topics: two servers, a Redis, and many clients, under faults.

Start it from the root of the repository with ``python -m tests.topics_chaos`` (``--help`` tells the
options): 30 s by default, 25 minutes with ``--seconds 1500``. Linux only, as ``tests.chaos``, whose
parts it uses; it needs redis-server. Everything stays on the loopback interface.

* ``server``   one incarnation of one of the two servers, in a process of its own: a ``RedisHub``,
  ``WebSocketProtocolTopics``, and server code that publishes and subscribes, too;
* ``clients``  the client process: each client with a thread that publishes;
* ``faults``   the schedule of faults;
* ``storage``  the Redis of the test, and what is in it;
* ``arena``    the controlling process;
* ``check``    the invariants, from the logs of both sides and what was in Redis;
* ``__main__`` the command line.

Between the clients and each server, and between each server and Redis, there is a fault proxy. A
client chooses one of the servers for each attempt to connect. Servers are killed, stopped, frozen
and started again; Redis is stopped, killed, frozen, started again with all of its data (which it
writes before it answers), with none, or with an earlier copy; links are cut, truncated, frozen,
delayed and throttled. Now and then a client unsubscribes and subscribes again from where it was,
blocks in a callback, or is freed like a program that dies: another one goes on from its
``state()``.

An *era* is the time in which Redis keeps its data: it ends when they are deleted, or replaced by
an earlier copy. At the end of each, all that is in Redis is read.

The invariants
==============
1. **What a subscriber hears** of a topic, between two announcements (``recovered`` False), is a
   part of the topic's history in one era: no gap, no repetition, the same order, the same data.
   After an announcement it goes on right behind the position that was announced; the first time,
   behind the position at which it has subscribed. That holds for clients, across all their
   connections, servers and restarts, and for the subscribers of server code.
2. **Announcements** come only when data was lost: at most one for each subscription and end of an
   era, and its reason is ``epoch``.
3. **An acknowledged publication** is in the history, with the offset of its acknowledgement.
4. **No publication is lost silently**: each is acknowledged, refused or failed at the end. One that
   the application refuses, or that fails at once because too many wait, is in no history.
5. **Each once, in order**: in the history of an era a publication is at most once, and those of a
   client on a topic are in its order. (But for one that an earlier era has had: a server that was
   frozen may bring it again, when Redis does not know it any more.)
6. **The application is asked** for all that clients have published: each is in the log of a server.
7. **In the end everybody has everything**: each subscriber the newest publication of each of its
   topics; and ``members`` are those that are subscribed, and no others.
8. **Everybody comes back**: after the last fault of a round all clients are connected and
   subscribed, and their publications answered, within the bound that ``arena`` tells.
9. **Nothing is left**: threads and descriptors of the clients' process are as before, and as many
   at the end of a server that was stopped. No unhandled exception, no log record of ``mormot_ws``
   at ERROR or above, nothing on standard error.
"""
