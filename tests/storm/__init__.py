"""The storm: many clients lose their server at once, by SIGKILL, and it comes back after some seconds.

Start it from the root of the repository with ``python -m tests.storm`` (``--help`` tells the options). Linux only: it counts on one
monotonic clock for all processes. Everything stays on the loopback interface.

* ``server``   the server for all, ``mormot_ws``'s, in a process of its own, which notes when it accepts and when it upgrades;
* ``fleet``    one process full of clients of one library, which notes every attempt to connect and every upgrade;
* ``figures``  from these notes to the figures, and the table;
* ``__main__`` the command line: one storm after another.

An *attempt* is a call of ``socket.connect`` or ``connect_ex``, whatever the library: counted at the client, where it is refused while
there is no server. The *time to come back* is from the moment when the new server listens to the moment when the application is
told that its client is upgraded. *Spread*: attempts are counted by seconds from the loss on, and the busiest second of the outage is
compared with the mean of the outage's seconds; in the same way for the arrivals at the new server.
"""
