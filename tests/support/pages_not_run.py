"""What the pages show and the tests do not run: the reason, and the test that looks after it
instead. The only place for that.
"""

from __future__ import annotations

from typing import NamedTuple


class NotRun(NamedTuple):
    """Blocks of the pages that match *page*, in *language*, whose code begins with *begins*."""

    page: str
    language: str
    begins: str
    reason: str
    #: ``tests/test_x.py::test_name`` (or ``::TestClass``) that checks them in another way; '' if
    #: nothing does
    instead: str = ""


class Command(NamedTuple):
    """Commands in ``sh`` and ``console`` blocks whose line matches *pattern*."""

    pattern: str
    reason: str


NOT_RUN = [
    NotRun(
        "docs/how-to/several-machines.md",
        "nginx",
        "",
        "the configuration of a program that the page does not start",
        "tests/docs/test_several_machines_page.py::test_two_servers_behind_it_are_one",
    ),
    NotRun(
        "docs/how-to/several-machines.md",
        "cfg",
        "",
        "the configuration of a program that the page does not start",
        "tests/docs/test_several_machines_page.py::test_two_servers_behind_it_are_one",
    ),
    NotRun(
        "docs/how-to/several-machines.md",
        "properties",
        "",
        "lines of the configuration of Redis",
        "tests/docs/test_several_machines_page.py::test_the_rights_are_enough_and_no_more",
    ),
    NotRun(
        "README.md",
        "python",
        "",
        "two programs with standard input, run together while the server is killed and restarted",
        "tests/docs/test_readme.py::TestCodeToCopy",
    ),
    NotRun(
        "README.md",
        "sh",
        "python3 -m venv",
        "they install the package and run the demo, or all tests: CI runs them as they stand",
        "tests/docs/test_readme.py::test_each_command_has_a_line_of_its_own_in_a_code_block",
    ),
    NotRun(
        "docs/how-to/windows.md",
        "bat",
        "",
        "commands of Windows; under Wine, tests/windows runs the package and the demo",
    ),
    NotRun(
        "docs/tutorial.md",
        "bat",
        "",
        "the commands of the block above, as Windows has them",
    ),
    NotRun(
        "README.md",
        "bat",
        "",
        "the commands of the blocks above, as Windows has them",
    ),
    NotRun(
        "docs/how-to/nginx.md",
        "nginx",
        "",
        "run in a real nginx, where there is one",
        "tests/docs/test_nginx_page.py::test_messages_of_any_size_pass_with_and_without_tls",
    ),
    NotRun(
        "docs/reference/topics-protocol.md",
        "none",
        "",
        "messages, compared with what is sent",
        "tests/topics/test_topics_wire.py::test_the_page_has_the_messages_that_are_sent",
    ),
    NotRun(
        "docs/how-to/listen.md",
        "nginx",
        "",
        "run in a real nginx, where there is one",
        "tests/docs/test_nginx_page.py::test_a_unix_socket_behind_it_gets_messages_and_addresses",
    ),
    NotRun(
        "docs/contributing.md",
        "html",
        "<!-- hidden: python",
        "shows what a hidden block can call",
        "tests/docs/test_pages.py::TestRules",
    ),
    NotRun(
        "docs/contributing.md",
        "sh",
        "pip install '.[docs]'",
        "installs Sphinx and builds the site, which CI does",
    ),
    NotRun(
        "docs/how-to/desktop.md",
        "python",
        "main = mormot_ws.MainThreadQueue(",
        "parts of the examples, which need a toolkit and a screen",
        "tests/docs/test_desktop_examples.py::test_a_window_shows_what_comes_and_closes",
    ),
    NotRun(
        "docs/how-to/health.md",
        "none",
        "",
        "a configuration for HAProxy",
        "tests/docs/test_balancer_pages.py::test_haproxy_takes_out_a_server_that_is_not_ready",
    ),
    NotRun(
        "docs/how-to/health.md",
        "nginx",
        "",
        "two lines of a site",
        "tests/docs/test_balancer_pages.py::test_nginx_takes_the_lines",
    ),
    NotRun(
        "docs/how-to/health.md",
        "yaml",
        "containers:",
        "part of a pod, which needs a cluster",
    ),
    NotRun(
        "docs/reference/topics-js.md",
        "js",
        "import",
        "runs in a browser",
        "tests/topics/test_topics_js.py::test_a_page_that_is_reloaded_goes_on",
    ),
    NotRun(
        "docs/porting-guide.md",
        "pascal",
        "",
        "Object Pascal, for comparison; there is no compiler here",
    ),
    NotRun(
        "docs/how-to/services.md",
        "pascal",
        "",
        "Object Pascal, for comparison; there is no compiler here",
    ),
]

COMMANDS = [
    Command(
        r"(\.venv/bin/)?pip install ",
        "installs; the extras that it names are checked by tests/docs/test_pages.py",
    ),
    Command(r"python3 -m venv ", "makes an environment to install into"),
    Command(r"\. \.venv/bin/activate$", "changes the terminal in which it is typed"),
    Command(
        r"docker compose ",
        "needs Docker; tests/docs/test_deployment.py runs the same as processes",
    ),
    Command(r"sudo systemctl ", "needs a running systemd, and rights"),
]
