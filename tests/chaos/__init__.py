"""The chaos test: a server that is killed, stopped, frozen and restarted at random, a faulty
network, and many clients.

Start it from the root of the repository with ``python -m tests.chaos`` (``--help`` tells the
options): 60 s by default, 30 minutes with ``--seconds 1800``; ``tests/tools/test_chaos.py`` runs a
short form. Linux only: it counts on one monotonic clock for all processes and on ``/proc``.
Everything stays on the loopback interface.

* ``messages`` what the two sides say to each other, and how they log it;
* ``server``   one incarnation of the server, in a process of its own;
* ``clients``  the client process: all clients, each with a sending thread;
* ``faults``   the schedule of faults, drawn from a seed;
* ``arena``    the controlling process: starts the others, produces the faults, waits for the return
    of all clients;
* ``check``    the invariants, from the logs of both sides;
* ``__main__`` the command line.

What is sent
============

Four streams of numbered messages; a number is used up when ``send…`` has returned True, and tried
again when it returned False:

====  ================  =========================================  ==========================
name  direction         sent by                                    numbered
====  ================  =========================================  ==========================
a     client to server  ``send_frame_async``, in the client's      per client, through all its
                        sending thread                             connections
s     client to server  ``send_frame``, in the same thread         per client, through all its
                                                                   connections
p     server to client  ``send_frame_async``, in one pushing       per connection, from 0
                        thread for all
r     server to client  ``send_frame``, in the callback for an s   per connection, from 0
====  ================  =========================================  ==========================

Most clients go through the fault proxy, every fifth straight to the server. Every third connection
has small kernel buffers and large messages, so that losses meet batches that have left in part. Now
and then a client closes its connection by itself, by ``process.shutdown()``, and reconnects; or
one of the two processes forks a child, which frees what it has inherited, or just ends. On both
sides a log handler raises at every twentieth record, which changes nothing. With ``--signals`` a
signal handler raises in the main thread of each side twice a second, in the middle of sends, status
and shutdown(): a frame that it cuts costs its connection, and nothing else.

The invariants
==============
1. **On one connection** what arrives of a stream is a contiguous, increasing run of its numbers: no
   gap, no reordering, no duplicate. Streams p and r begin with 0.
2. **Across the connections of a client**, taken in the order in which the server accepted them,
   each run of a and of s begins above the end of the one before: what has arrived once never
   arrives again, not even a message whose connection was lost while it was being sent, and not one
   for which ``send_frame`` returned False. Gaps may only lie between two runs: what the kernel had
   taken and what died with its connection is lost, and nothing else is; see 3. (Taken by the order
   of connections, not of arrivals: what a slow network still brings from an old connection may come
   in while the new one is running.)
3. **The books balance**: for each client the payload bytes of all messages with True are the bytes
   that the protocol counts as sent (``frames_out_bytes``), none twice and none dropped from the
   queue, when the queue is empty at the end.
4. **In the end everything has arrived**: after the last fault, on the last connection of each
   client, all that was promised until then arrives, both ways, whatever waited in the queue
   included. Nothing arrives that was not promised (but for the one message of a stream that was on
   its way when its server was killed).
5. **Everybody comes back**: after the last fault of a round each client has, within the cap of its
   backoff + 2 s, received a message that the server sent after that fault. The cap is 2 s in runs
   of less than ten minutes, else the default's 15 s. The clients' ``timeout`` (1.5 s; with TLS,
   where two handshakes may meet a hole, 0.9 s each) and heartbeats (two of 400 ms) are chosen so
   that an attempt into a hole, or a dead connection, is noticed within the 2 s.
6. **Nothing is left or grows**: at the end, with everybody connected, the client process has the
   threads and file descriptors that it had at the beginning; its memory has grown by no more than 5
   % + 4 MB, its Python objects and their blocks of memory by no more than 1 % + 200. The beginning
   is after a warm-up in which queues have filled and connections were lost; memory is looked at
   after ``gc.collect`` and ``malloc_trim``, with one arena and without caches per thread in the
   allocator: with them the C library keeps some 20 MB more for 100 threads, of what they have freed
   long ago. After ``free()`` of all clients, each within 3 s, no thread or descriptor of theirs is
   left. A server that stops leaves none either.
7. **A forked child** ends within 10 s and changes nothing for its parent: see all the others.
8. **No unhandled exception** in any thread of either side (``threading.excepthook``,
   ``sys.unraisablehook``), no log record of ``mormot_ws`` at ERROR or above, nothing on standard
   error, no close code that tells of a broken stream (1002, 1003, 1007, 1009, 1011).
"""
