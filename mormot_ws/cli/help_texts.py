"""The longer texts of ``--help``: what the commands do, examples, and the exit codes."""

CODES = """\
exit codes:
  0    done as asked
  1    no connection: nobody listens there, the upgrade was refused, the port is
       in use
  2    bad arguments
  3    the connection was lost, or closed with a code other than 1000 and 1001;
       something could not be sent; bench: no echo
  130  ended by Ctrl-C     143  by SIGTERM     141  by a closed output pipe
  (serve ends with 0 on the first two: that is how it is stopped)
"""

PROGRAM = """\
WebSockets on the command line: a server to try things with, a client that
reconnects, and a benchmark of any echo server.

  mormot-ws serve                          an echo server on port 8999
  mormot-ws connect ws://127.0.0.1:8999    type to it
  mormot-ws bench ws://127.0.0.1:8999      how fast is it?

`mormot-ws COMMAND --help` tells more. `python -m mormot_ws` is the same program.
"""

SERVE = """\
Serve WebSockets until Ctrl-C or SIGTERM, then close all connections gracefully
and print the counters.

  echo       every message goes back to its sender (the default)
  chat       every message goes to all the others
  broadcast  every line of standard input goes to all clients; its end stops the server
"""

SERVE_EXAMPLES = """\
examples:
  mormot-ws serve
  mormot-ws serve chat --host 0.0.0.0 --port 9000 --max-connections 100
  tail -f app.log | mormot-ws serve broadcast
  mormot-ws serve --cert cert.pem --key key.pem --status 5
  mormot-ws serve --port 0 --json --status 1      for scripts
  mormot-ws serve --unix /tmp/echo.sock --unix-mode 600
  mormot-ws serve --hub redis://127.0.0.1:6379

"""

CONNECT = """\
Connect to a WebSocket server; lines of standard input are sent as messages,
what arrives is printed. Works with any server.

Messages go to standard output, remarks (connected, closed, ...) to standard
error. Ctrl-C, or Ctrl-D at the beginning of a line, closes the connection.
"""

CONNECT_EXAMPLES = """\
examples:
  mormot-ws connect ws://127.0.0.1:8999
  mormot-ws connect wss://example.com/feed --bearer @token.txt --reconnect
  echo hello | mormot-ws connect ws://127.0.0.1:8999 --count 1
  mormot-ws connect ws://127.0.0.1:8999 --json --linger forever < /dev/null
  mormot-ws connect ws://127.0.0.1:8999 --binary < photo.jpg > copy.jpg
  mormot-ws connect ws+unix:/tmp/echo.sock:/
  mormot-ws connect ws://127.0.0.1:8999 --subscribe news --reconnect --json

"""

BENCH = """\
Measure a WebSocket server that echoes: first the round trips, one message at a
time on each connection; then the throughput, with many messages in flight.
"""

BENCH_EXAMPLES = """\
examples:
  mormot-ws bench ws://127.0.0.1:8999
  mormot-ws bench ws://127.0.0.1:8999 --size 32 --size 16k --connections 4
  mormot-ws bench wss://example.com/echo --count 100 --seconds 10 --json

"""
