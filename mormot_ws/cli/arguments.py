"""The options of the command line, and the text of ``--help``.

The types of the options are in ``argument_types.py``, the longer texts in ``help_texts.py``.

argparse is enough for three commands with flat options, and its messages are well known. A library
would be one more thing to install.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import __version__
from . import argument_types, help_texts

#: where ``serve`` listens by default
_HOST = "127.0.0.1"
_PORT = 8999


class UsageError(ValueError):
    """Raised for arguments that do not go together; the text says why."""


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
            "an echo, chat or broadcast server",
            help_texts.SERVE,
            help_texts.SERVE_EXAMPLES,
            _add_serve,
        ),
        (
            "connect",
            "type to a server and see what it sends",
            help_texts.CONNECT,
            help_texts.CONNECT_EXAMPLES,
            _add_connect,
        ),
        (
            "bench",
            "round trips and throughput of an echo server",
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
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="one JSON object a line on standard output, for scripts"
    )
    group.add_argument(
        "--log-json",
        action="store_true",
        help="the library's log and all remarks as lines of JSON on standard error",
    )
    group.add_argument(
        "--plain", action="store_true", help="no colours, bars or line editing, even on a terminal"
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no remarks except errors")
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="the library's log too; -vv: all of it"
    )


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mode",
        nargs="?",
        type=argument_types.serve_mode,
        choices=("echo", "chat", "broadcast"),
        default="echo",
        help="what to serve",
    )
    parser.add_argument("--host", help=f"address to listen on; 0.0.0.0: all (default {_HOST})")
    parser.add_argument(
        "--port",
        type=argument_types.port,
        help=f"0: a free one, which is printed (default {_PORT})",
    )
    parser.add_argument(
        "--reuse-port", action="store_true", help="let other servers listen on the same port too"
    )
    parser.add_argument(
        "--unix",
        metavar="PATH",
        type=argument_types.unix,
        help="listen on a Unix socket instead; @NAME: one without a file",
    )
    parser.add_argument(
        "--unix-mode",
        metavar="MODE",
        type=argument_types.mode,
        help="permissions of its file, e.g. 660 (default: as the umask says)",
    )
    parser.add_argument(
        "--fd",
        metavar="N",
        type=argument_types.whole,
        help="listen on a socket that was inherited as descriptor N instead",
    )
    parser.add_argument(
        "--systemd", action="store_true", help="listen on the sockets that systemd passes instead"
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=argument_types.up_to(64),
        help="echo in N OS processes; SIGHUP replaces them one after another",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        type=argument_types.protocol,
        help="serve clients that ask for this sub-protocol only (default: any, and none)",
    )
    parser.add_argument(
        "--uri", metavar="PATH", default="", help="serve this path only, e.g. chat (default: any)"
    )
    parser.add_argument(
        "--hub",
        metavar="URL",
        type=argument_types.hub,
        help="topics too, for clients of the sub-protocol topics: memory:, redis://host:port or "
        "rediss://...; @FILE: read it from the file, where a password is not seen",
    )
    parser.add_argument(
        "--status",
        metavar="SECONDS",
        type=argument_types.seconds,
        help="print the counters this often",
    )
    group = parser.add_argument_group("load balancers and monitoring")
    group.add_argument(
        "--health",
        metavar="PATH",
        type=argument_types.path,
        default="",
        help="answer health checks there, e.g. /health: 200, or 503 when full or stopping",
    )
    group.add_argument(
        "--metrics",
        metavar="PATH",
        type=argument_types.path,
        help="answer Prometheus there, e.g. /metrics; needs the extra metrics",
    )
    group.add_argument(
        "--drain",
        metavar="SECONDS",
        type=argument_types.seconds,
        help="when told to stop, go on for so long while health checks get 503",
    )
    group.add_argument(
        "--proxy-protocol",
        metavar="NETWORK",
        type=argument_types.network,
        action="append",
        default=[],
        help="load balancers there begin each connection with a PROXY header; repeatable",
    )
    group = parser.add_argument_group("TLS")
    group.add_argument(
        "--cert", metavar="FILE", help="certificate chain in PEM: makes it a wss:// server"
    )
    group.add_argument(
        "--key", metavar="FILE", help="its private key, if that is not in the same file"
    )
    group.add_argument(
        "--client-ca",
        metavar="FILE",
        help="clients need a certificate issued by one of these authorities",
    )
    group = parser.add_argument_group("limits and heartbeat")
    group.add_argument(
        "--max-connections",
        metavar="N",
        type=argument_types.whole,
        default=0,
        help="connections at a time (default: no limit)",
    )
    group.add_argument(
        "--max-per-ip",
        metavar="N",
        type=argument_types.whole,
        default=0,
        help="the same for one address (default: no limit)",
    )
    group.add_argument(
        "--max-message",
        metavar="BYTES",
        type=argument_types.size,
        default=16 << 20,
        help="refuse longer messages; k, M, Ki and Mi are understood (default 16Mi)",
    )
    group.add_argument(
        "--origin",
        type=argument_types.origin,
        metavar="ORIGIN",
        action="append",
        help="accept pages of this origin only, e.g. https://example.com; repeatable "
        "(default: any)",
    )
    group.add_argument(
        "--deflate", action="store_true", help="accept compression (permessage-deflate)"
    )
    _add_heartbeat(group)


def _add_connect(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument(
        "--binary",
        action="store_true",
        help="send the input as binary messages, in blocks as it arrives; write received "
        "messages as they are",
    )
    parser.add_argument(
        "--ping",
        metavar="SECONDS",
        type=argument_types.seconds,
        help="send a ping this often, and show its round trip",
    )
    parser.add_argument(
        "--status",
        metavar="SECONDS",
        type=argument_types.seconds,
        help="print the client's counters this often",
    )
    parser.add_argument(
        "--linger",
        metavar="SECONDS",
        type=argument_types.linger,
        help="after the end of the input, stay until nothing has arrived for this long; "
        "or: forever (default 1; 0 at a terminal)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=argument_types.positive,
        default=0,
        help="close after N received messages",
    )
    group = parser.add_argument_group("topics")
    group.add_argument(
        "--subscribe",
        metavar="TOPIC",
        type=argument_types.topic,
        action="append",
        default=[],
        help="show what is published on a topic, and what was missed when the connection was lost; "
        "repeatable; without --publish, standard input is not read",
    )
    group.add_argument(
        "--publish",
        metavar="TOPIC",
        type=argument_types.topic,
        help="publish each line of the input on a topic",
    )
    group = parser.add_argument_group("reconnection")
    group.add_argument(
        "--reconnect",
        action="store_true",
        help="reconnect when the connection is lost, and keep trying from the start; lines "
        "typed meanwhile are sent once it is back",
    )
    group.add_argument(
        "--max-attempts",
        metavar="N",
        type=argument_types.positive,
        default=0,
        help="give up after N failed attempts in a row (default: never, except after 401, 403 "
        "and 1008)",
    )
    _add_heartbeat(group)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument(
        "--size",
        metavar="BYTES",
        type=argument_types.size,
        action="append",
        help="size of a message; repeatable (default 32)",
    )
    parser.add_argument(
        "--connections",
        metavar="N",
        type=argument_types.up_to(argument_types.MOST_CONNECTIONS),
        default=1,
        help="connections at a time (default 1)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=argument_types.up_to(argument_types.MOST_COUNT),
        default=10_000,
        help="messages per measurement, over all connections (default %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=argument_types.bench_seconds,
        default=3.0,
        help="... or this long, whichever comes first (default %(default)g)",
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=argument_types.up_to(10_000),
        default=64,
        help="messages in flight on each connection while the throughput is measured; fewer "
        "if they are large (default %(default)s)",
    )
    parser.add_argument("--binary", action="store_true", help="binary messages (default: text)")


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that connect and bench share: the server, and how to reach it."""
    parser.add_argument(
        "uri",
        metavar="URI",
        type=argument_types.uri,
        help="ws://host:port/resource, or wss:// for TLS; ws+unix:/path:/resource: a Unix socket",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        type=argument_types.protocol,
        action="append",
        default=[],
        help="sub-protocol to ask for; repeatable: the server chooses (default: none)",
    )
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        type=argument_types.header,
        action="append",
        default=[],
        help="an additional header of the upgrade request; repeatable",
    )
    parser.add_argument(
        "--bearer",
        metavar="TOKEN",
        type=argument_types.bearer,
        help="send Authorization: Bearer TOKEN; @FILE: read it from the file, again for every "
        "connection",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=argument_types.seconds,
        default=10.0,
        help="limit for connecting, and for the upgrade (default %(default)g)",
    )
    parser.add_argument(
        "--proxy",
        metavar="URL",
        help="http://host:port or socks5://host:port; '': none (default: the environment's)",
    )
    group = parser.add_argument_group("TLS and compression")
    group.add_argument(
        "--ca", metavar="FILE", help="authorities to trust, in PEM (default: the system's)"
    )
    group.add_argument("--cert", metavar="FILE", help="the client's own certificate, in PEM")
    group.add_argument(
        "--key", metavar="FILE", help="its private key, if that is not in the same file"
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="accept any certificate: for tests on your own machine",
    )
    group.add_argument(
        "--deflate", action="store_true", help="offer compression (permessage-deflate)"
    )


def _add_heartbeat(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--heartbeat",
        metavar="SECONDS",
        type=argument_types.seconds_or_0,
        default=20.0,
        help="ping a peer that has been silent for this long; five unanswered pings end the "
        "connection; 0: never (default %(default)g)",
    )


def _check_place(args: argparse.Namespace) -> None:
    """Set ``args.where``, the first argument of the server."""
    has_port = args.host is not None or args.port is not None or args.reuse_port
    others = [args.unix, None if args.fd is None else f"fd://{args.fd}"]
    others = [each for each in others if each is not None] + ["systemd:"] * args.systemd
    if len(others) + has_port > 1:
        raise UsageError("--unix, --fd, --systemd or a port (--host, --port, --reuse-port)")
    if args.unix_mode is not None and (args.unix is None or args.unix.startswith("unix:@")):
        raise UsageError("--unix-mode goes with --unix PATH")
    if others:
        args.where = others[0]
        return
    host = _HOST if args.host is None else args.host
    port = _PORT if args.port is None else args.port
    args.where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_together(args: argparse.Namespace) -> None:
    """Raise :class:`UsageError` for options that make no sense together."""
    if args.key and not args.cert:
        raise UsageError("--key goes with --cert")
    if args.command == "serve":
        _check_place(args)
        if args.processes is not None and args.mode != "echo":
            raise UsageError("--processes goes with echo: others would reach only some clients")
        if args.hub == "memory:" and args.processes is not None:
            raise UsageError("--hub memory: is one OS process's own: --processes needs a Redis")
        if args.hub and (args.protocol or "").lower() == "topics":
            raise UsageError("--protocol topics is what --hub offers")
        if args.drain and not (args.health and args.processes is None):
            raise UsageError("--drain goes with --health, and without --processes")
        if args.metrics and args.processes is not None:
            raise UsageError("--metrics goes without --processes: each would answer for itself")
        if args.client_ca and not args.cert:
            raise UsageError("--client-ca goes with --cert")
        args.uri = args.uri.removeprefix("/")
        if any(c <= " " or c in "?#\x7f" for c in args.uri):
            raise UsageError(f"--uri is a path without '?', '#' and blanks, not {args.uri!r}")
        return
    scheme = args.uri.partition(":")[0].lower()
    if scheme not in ("wss", "wss+unix") and (args.ca or args.cert or args.insecure):
        raise UsageError("--ca, --cert and --insecure go with a wss:// URI")
    if args.ca and args.insecure:
        raise UsageError("--ca or --insecure, not both")
    if args.bearer and any(header.lower().startswith("authorization:") for header in args.header):
        raise UsageError("--bearer or a header Authorization, not both")
    if args.command == "connect":
        if (args.subscribe or args.publish) and args.binary:
            raise UsageError("--subscribe and --publish go without --binary")
        if (args.subscribe or args.publish) and len(args.protocol) > 1:
            raise UsageError("--subscribe and --publish go with one --protocol")
        if len(set(args.subscribe)) < len(args.subscribe):
            raise UsageError("--subscribe names each topic once")
        if args.max_attempts and not args.reconnect:
            raise UsageError("--max-attempts goes with --reconnect")
    elif not args.size:
        args.size = [32]
