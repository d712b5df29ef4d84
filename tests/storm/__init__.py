"""The storm: many clients lose their server at once, by SIGKILL, and it comes back after some
seconds.

Start it from the root of the repository with ``python -m tests.storm`` (``--help`` tells the
options). Linux only: it counts on one monotonic clock for all processes. Everything stays on the
loopback interface.

* ``server``   the server for all, ``mormot_ws``'s, in a process of its own, which notes when it
    accepts and when it upgrades;
* ``fleet``    one process full of clients of one library, which notes every attempt to connect and
    every upgrade;
* ``figures``  from these notes to the figures, and the table;
* ``__main__`` the command line: one storm after another.

An *attempt* is a call of ``socket.connect`` or ``connect_ex``, whatever the library: counted at the
client, where it is refused while there is no server. The *time to come back* is from the moment
when the new server listens to the moment when the application is told that its client is upgraded.
*Spread*: attempts are counted by seconds from the loss on, and the busiest second of the outage is
compared with the mean of the outage's seconds; in the same way for the arrivals at the new server.

No second of the outage should have more than 3 times the mean. That holds for the fleet of 1 000
for which it is meant, whose attempts take their time. By arithmetic alone, full jitter from 100 ms
gives the first of five seconds 3.2 times the mean (4.0, 1.0, 0.6, 0.4 and 0.4 attempts of a
client), which small fleets show. The first bound decides: 200 ms would give 2.9 times, and twice
the wait after a short loss. What a server feels is the fleet's return, and that is spread over the
cap.
"""
