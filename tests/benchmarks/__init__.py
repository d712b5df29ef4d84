# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Speed and memory of ``mormot_ws`` beside its peers, measured in one and the same run.

Start it from the root of the repository with ``python -m tests.benchmarks`` (``--help`` tells the
options). Linux only: it counts on ``epoll`` and ``/proc``. Everything stays on the loopback
interface.

* ``servers``    one echo server per library, each run in a process of its own;
* ``clients``    one ping-pong driver per client library, each run in a process of its own;
* ``raw_client`` the client the servers are measured with: plain sockets and precomputed frames;
* ``handshake``  the little HTTP that the upgrade needs;
* ``processes``  starting, asking and ending those processes;
* ``suite``      what is measured, with whom, and what is expected;
* ``report``     medians, ratios, verdicts, and the table;
* ``__main__``   the command line.
"""
