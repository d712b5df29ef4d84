"""The longer texts of ``--help``: what the commands do, examples, and the exit codes."""

CODES = """\
exit codes:
  0    success
  1    no connection: no server is listening, it refused the upgrade, or the port
       is in use
  2    invalid arguments
  3    the connection was lost, or closed with a code other than 1000, 1001 and
       1005; something could not be sent; bench: no echo
  130  stopped by Ctrl-C     143  by SIGTERM     141  by a closed output pipe
  (serve exits with 0 after Ctrl-C and SIGTERM)
"""

PROGRAM = """\
WebSockets on the command line: a server to experiment with, a client that
reconnects, and a benchmark for echo servers.

  mormot-ws serve                          an echo server on port 8999
  mormot-ws connect ws://127.0.0.1:8999    send it what you type
  mormot-ws bench ws://127.0.0.1:8999      measure how fast it is

Run `mormot-ws COMMAND --help` for the options of a command. `python -m mormot_ws`
runs the same program.
"""

SERVE = """\
Serve WebSockets until Ctrl-C or SIGTERM, then close all connections gracefully
and print the counters.

  echo       send each message back to its sender (the default)
  chat       send each message to all other clients
  broadcast  send each line of standard input to all clients; stop at its end
"""

SERVE_EXAMPLES = """\
examples:
  mormot-ws serve
  mormot-ws serve chat --host 0.0.0.0 --port 9000 --max-connections 100
  tail -f app.log | mormot-ws serve broadcast
  mormot-ws serve --cert cert.pem --key key.pem --status 5
  mormot-ws serve --port 0 --json --status 1
  mormot-ws serve --unix /tmp/echo.sock --unix-mode 600
  mormot-ws serve --hub redis://127.0.0.1:6379

"""

CONNECT = """\
Connect to any WebSocket server, send each line of standard input as a message,
and print the messages that arrive.

Messages go to standard output, notices (connected, closed, ...) to standard
error. Press Ctrl-C, or Ctrl-D at the start of a line, to close the connection.
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
Measure an echo server: first round trips, with one message at a time on each
connection, then throughput, with many messages in flight.
"""

BENCH_EXAMPLES = """\
examples:
  mormot-ws bench ws://127.0.0.1:8999
  mormot-ws bench ws://127.0.0.1:8999 --size 32 --size 16k --connections 4
  mormot-ws bench wss://example.com/echo --count 100 --seconds 10 --json

"""
