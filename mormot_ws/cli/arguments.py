"""The command line options and the text of ``--help``.

The types of the options are in ``argument_types.py``, the longer texts in ``help_texts.py``.

argparse is enough for three commands with flat options, and its messages are familiar. A library
would be one more dependency.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__
from . import argument_types as types
from . import help_texts

#: where ``serve`` listens by default
_HOST = "127.0.0.1"
_PORT = 8999


class UsageError(ValueError):
    """Raised for options that cannot be combined; the message says why."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed *arguments* (None: ``sys.argv``); raise ``SystemExit`` like argparse."""
    parser, commands = make_parser()
    args = parser.parse_args(arguments)
    try:
        _check_together(args)
    except UsageError as exc:
        commands[args.command].error(str(exc))
    args.parser = commands[args.command]
    return args


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and the parsers of its commands by name."""
    parser = argparse.ArgumentParser(
        "mormot-ws",
        description=help_texts.PROGRAM,
        epilog=help_texts.CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mormot-ws {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="serve | connect | bench", title="commands"
    )
    made: dict[str, argparse.ArgumentParser] = {}
    for name, short, text, examples, add in (
        (
            "serve",
            "run an echo, chat or broadcast server",
            help_texts.SERVE,
            help_texts.SERVE_EXAMPLES,
            _add_serve,
        ),
        (
            "connect",
            "send lines to a server and print what it sends",
            help_texts.CONNECT,
            help_texts.CONNECT_EXAMPLES,
            _add_connect,
        ),
        (
            "bench",
            "measure round trips and throughput of an echo server",
            help_texts.BENCH,
            help_texts.BENCH_EXAMPLES,
            _add_bench,
        ),
    ):
        made[name] = commands.add_parser(
            name,
            help=short,
            description=text,
            epilog=examples + help_texts.CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add(made[name])
        _add_common(made[name])
    return parser, made


def _add_common(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    _flag(output, "--json", "write one JSON object per line to standard output, for scripts")
    _flag(output, "--log-json", "write the library's log and all notices to standard error as JSON")
    _flag(output, "--plain", "no colours, bars or line editing, even on a terminal")
    output.add_argument("-q", "--quiet", action="store_true", help="no notices except errors")
    output.add_argument(
        "-v", "--verbose", action="count", default=0, help="show the library's log; -vv: all of it"
    )


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mode",
        nargs="?",
        type=types.serve_mode,
        choices=("echo", "chat", "broadcast"),
        default="echo",
        help="what to serve",
    )
    _value(parser, "--host HOST", str, f"address to listen on; 0.0.0.0: all (default {_HOST})")
    _value(
        parser, "--port PORT", types.port, f"0: any free port, which is printed (default {_PORT})"
    )
    _flag(parser, "--reuse-port", "let other servers listen on the same port")
    _value(
        parser,
        "--unix PATH",
        types.unix,
        "listen on a Unix socket instead; @NAME: a socket without a file",
    )
    _value(
        parser,
        "--unix-mode MODE",
        types.mode,
        "permissions of the socket's file, e.g. 660 (default: set by the umask)",
    )
    _value(parser, "--fd N", types.whole, "listen on the socket inherited as descriptor N instead")
    _flag(parser, "--systemd", "listen on the sockets passed by systemd instead")
    _value(
        parser,
        "--processes N",
        types.up_to(64),
        "echo in N OS processes; SIGHUP replaces them one by one",
    )
    _value(
        parser,
        "--protocol NAME",
        types.protocol,
        "serve only clients that ask for this sub-protocol (default: any or none)",
    )
    _value(parser, "--uri PATH", str, "serve only this path, e.g. chat (default: any)", default="")
    _value(
        parser,
        "--hub URL",
        types.hub,
        "also serve topics, to clients of the sub-protocol topics: memory:, redis://host:port or "
        "rediss://...; @FILE: read the URL from a file, which hides its password",
    )
    _value(parser, "--status SECONDS", types.seconds, "print the counters at this interval")
    group = parser.add_argument_group("load balancers and monitoring")
    _value(
        group,
        "--health PATH",
        types.path,
        "answer health checks on this path, e.g. /health: 200, or 503 when full or stopping",
        default="",
    )
    _value(
        group,
        "--metrics PATH",
        types.path,
        "serve metrics for Prometheus on this path, e.g. /metrics; needs the extra 'metrics'",
    )
    _value(
        group,
        "--drain SECONDS",
        types.seconds,
        "after a signal, keep serving for this long while health checks get 503",
    )
    _values(
        group,
        "--proxy-protocol NETWORK",
        types.network,
        "expect a PROXY header from load balancers in this network; repeatable",
    )
    group = parser.add_argument_group("TLS")
    _value(group, "--cert FILE", str, "certificate chain in PEM; makes it a wss:// server")
    _value(group, "--key FILE", str, "private key, if it is not in the same file")
    _value(
        group,
        "--client-ca FILE",
        str,
        "require client certificates issued by one of these authorities",
    )
    group = parser.add_argument_group("limits and heartbeat")
    _value(
        group,
        "--max-connections N",
        types.whole,
        "limit of simultaneous connections (default: none)",
        default=0,
    )
    _value(
        group,
        "--max-per-ip N",
        types.whole,
        "limit of simultaneous connections per address (default: none)",
        default=0,
    )
    _value(
        group,
        "--max-message BYTES",
        types.size,
        "refuse longer messages; accepts the units k, M, Ki and Mi (default 16Mi)",
        default=16 << 20,
    )
    _values(
        group,
        "--origin ORIGIN",
        types.origin,
        "accept only pages of this origin, e.g. https://example.com; repeatable (default: any)",
    )
    _flag(group, "--deflate", "accept compression (permessage-deflate)")
    _add_heartbeat(group)


def _add_connect(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    _flag(
        parser,
        "--binary",
        "send the input as binary messages, in blocks as it is read; write received messages "
        "unchanged",
    )
    _value(
        parser,
        "--ping SECONDS",
        types.seconds,
        "send a ping at this interval and show its round-trip time",
    )
    _value(parser, "--status SECONDS", types.seconds, "print the counters at this interval")
    _value(
        parser,
        "--linger SECONDS",
        types.linger,
        "after the end of the input, stay until nothing has arrived for this long; "
        "or: forever (default 1; 0 on a terminal)",
    )
    _value(parser, "--count N", types.positive, "close after N received messages", default=0)
    group = parser.add_argument_group("topics")
    _values(
        group,
        "--subscribe TOPIC",
        types.topic,
        "show publications on a topic, including those missed while disconnected; repeatable; "
        "without --publish, standard input is not read",
    )
    _value(group, "--publish TOPIC", types.topic, "publish each line of the input on a topic")
    group = parser.add_argument_group("reconnection")
    _flag(
        group,
        "--reconnect",
        "reconnect when the connection is lost, and retry the first connection too; lines typed "
        "meanwhile are sent after reconnecting",
    )
    _value(
        group,
        "--max-attempts N",
        types.positive,
        "give up after N failed attempts in a row (default: never, except after 401, 403, 404 "
        "and 1008)",
        default=0,
    )
    _add_heartbeat(group)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    _values(parser, "--size BYTES", types.size, "size of a message; repeatable (default 32)")
    _value(
        parser,
        "--connections N",
        types.up_to(types.MOST_CONNECTIONS),
        "simultaneous connections (default 1)",
        default=1,
    )
    _value(
        parser,
        "--count N",
        types.up_to(types.MOST_COUNT),
        "messages per measurement, over all connections (default %(default)s)",
        default=10_000,
    )
    _value(
        parser,
        "--seconds S",
        types.bench_seconds,
        "... or this long, whichever comes first (default %(default)g)",
        default=3.0,
    )
    _value(
        parser,
        "--window N",
        types.up_to(10_000),
        "messages in flight per connection during the throughput measurement; fewer if they are "
        "large (default %(default)s)",
        default=64,
    )
    _flag(parser, "--binary", "send binary messages (default: text)")


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that connect and bench share: the server, and how to reach it."""
    parser.add_argument(
        "uri",
        metavar="URI",
        type=types.uri,
        help="ws://host:port/resource, or wss:// for TLS; ws+unix:/path:/resource: a Unix socket",
    )
    _values(
        parser,
        "--protocol NAME",
        types.protocol,
        "sub-protocol to ask for; repeatable: the server chooses one (default: none)",
    )
    _values(
        parser,
        "--header 'NAME: VALUE'",
        types.header,
        "additional header of the upgrade request; repeatable",
    )
    _value(
        parser,
        "--bearer TOKEN",
        types.bearer,
        "send Authorization: Bearer TOKEN; @FILE: read the token from a file, again for each "
        "connection",
    )
    _value(
        parser,
        "--timeout SECONDS",
        types.seconds,
        "time-out for connecting, and again for the upgrade (default %(default)g)",
        default=10.0,
    )
    _value(
        parser,
        "--proxy URL",
        str,
        "http://host:port or socks5://host:port; '': none (default: from the environment)",
    )
    group = parser.add_argument_group("TLS and compression")
    _value(group, "--ca FILE", str, "authorities to trust, in PEM (default: the system's)")
    _value(group, "--cert FILE", str, "client certificate, in PEM")
    _value(group, "--key FILE", str, "private key, if it is not in the same file")
    _flag(group, "--insecure", "accept any certificate; only for tests on your own machine")
    _flag(group, "--deflate", "offer compression (permessage-deflate)")


def _add_heartbeat(group: argparse._ArgumentGroup) -> None:
    _value(
        group,
        "--heartbeat SECONDS",
        types.seconds_or_0,
        "ping a peer that has been silent for this long; end the connection after five unanswered "
        "pings; 0: never (default %(default)g)",
        default=20.0,
    )


def _flag(place: argparse._ActionsContainer, option: str, text: str) -> None:
    """Add an *option* without a value to *place*, a parser or one of its groups."""
    place.add_argument(option, action="store_true", help=text)


def _value(
    place: argparse._ActionsContainer,
    option: str,
    kind: Callable[[str], Any],
    text: str,
    default: Any = None,
) -> None:
    """Add an *option* like ``--port PORT``; *kind* turns its text into the value."""
    name, _, metavar = option.partition(" ")
    place.add_argument(name, metavar=metavar, type=kind, default=default, help=text)


def _values(
    place: argparse._ActionsContainer, option: str, kind: Callable[[str], Any], text: str
) -> None:
    """Add an *option* that may be repeated; without it, the list of its values is empty."""
    name, _, metavar = option.partition(" ")
    place.add_argument(name, metavar=metavar, type=kind, action="append", default=[], help=text)


def _check_place(args: argparse.Namespace) -> None:
    """Set ``args.where``, the first argument of the server."""
    has_port = args.host is not None or args.port is not None or args.reuse_port
    others = [args.unix, None if args.fd is None else f"fd://{args.fd}"]
    others = [each for each in others if each is not None] + ["systemd:"] * args.systemd
    if len(others) + has_port > 1:
        raise UsageError(
            "choose one of --unix, --fd, --systemd and a port (--host, --port, --reuse-port)"
        )
    if args.unix_mode is not None and (args.unix is None or args.unix.startswith("unix:@")):
        raise UsageError("--unix-mode requires --unix PATH")
    if others:
        args.where = others[0]
        return
    host = _HOST if args.host is None else args.host
    port = _PORT if args.port is None else args.port
    args.where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_together(args: argparse.Namespace) -> None:
    """Raise :class:`UsageError` for options that cannot be combined."""
    if args.key and not args.cert:
        raise UsageError("--key requires --cert")
    if args.command == "serve":
        _check_place(args)
        if args.processes is not None and args.mode != "echo":
            raise UsageError("--processes requires echo: other modes would reach only some clients")
        if args.hub == "memory:" and args.processes is not None:
            raise UsageError("--processes requires a Redis hub: OS processes cannot share memory:")
        if args.hub and (args.protocol or "").lower() == "topics":
            raise UsageError("leave out --protocol topics: --hub already serves it")
        if args.drain and not (args.health and args.processes is None):
            raise UsageError("--drain requires --health and cannot be combined with --processes")
        if args.metrics and args.processes is not None:
            raise UsageError("--metrics cannot be combined with --processes: each has its own")
        if args.client_ca and not args.cert:
            raise UsageError("--client-ca requires --cert")
        args.uri = args.uri.removeprefix("/")
        if any(c <= " " or c in "?#\x7f" for c in args.uri):
            raise UsageError(f"--uri must be a path without '?', '#' or spaces, not {args.uri!r}")
        return
    scheme = args.uri.partition(":")[0].lower()
    if scheme not in ("wss", "wss+unix") and (args.ca or args.cert or args.insecure):
        raise UsageError("--ca, --cert and --insecure require a wss:// URI")
    if args.ca and args.insecure:
        raise UsageError("choose either --ca or --insecure")
    if args.bearer and any(header.lower().startswith("authorization:") for header in args.header):
        raise UsageError("choose either --bearer or an Authorization header")
    if args.command == "connect":
        if (args.subscribe or args.publish) and args.binary:
            raise UsageError("--subscribe and --publish cannot be combined with --binary")
        if (args.subscribe or args.publish) and len(args.protocol) > 1:
            raise UsageError("--subscribe and --publish allow only one --protocol")
        if len(set(args.subscribe)) < len(args.subscribe):
            raise UsageError("--subscribe may name each topic only once")
        if args.max_attempts and not args.reconnect:
            raise UsageError("--max-attempts requires --reconnect")
    elif not args.size:
        args.size = [32]
