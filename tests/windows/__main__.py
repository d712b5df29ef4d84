"""The scenarios here and under Wine, with the seconds beside each other, and the demo there:
``python -m tests.windows [--folder DIR] [--here] [NAME ...]``.

It fails for a scenario that fails on either, and for bounds that differ by more than half a second.
When Wine or its Python cannot be had, it says so loudly; that is a failure too where the
environment has ``CI``, and a success elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .scenarios import SCENARIOS
from .wine import Unavailable, run, windows_path, wine_python

ROOT = Path(__file__).resolve().parents[2]
#: seconds for all scenarios, and for the demo
_ALL = 900.0
_DEMO = 300.0
#: the most seconds by which a bound may be another one there
_APART = 0.5
#: scenarios whose seconds are work or starts of programs, not a bound
_WORK = {"command_line", "large_echoes", "tls_echoes", "send_to_a_slow_reader", "many_connections"}

_UNDER_WINE = """
import os, sys
root, certificates = sys.argv[1:3]
os.environ.update(SCENARIO_CERTIFICATES=certificates, PYTHONPATH=root)
sys.path[:0] = [root, root + r"\\tests\\windows"]
sys.argv[1:] = sys.argv[3:]
import scenarios
scenarios.main()
"""


def make_certificates(folder: Path) -> None:
    """Write ``ca.pem`` and ``server.pem``: what makes them does not run under Wine."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))


def results(output: str) -> dict[str, dict[str, Any]]:
    """Return the results of scenarios by their names."""
    lines = [line for line in output.splitlines() if line.startswith('{"name"')]
    return {result["name"]: result for result in map(json.loads, lines)}


def here(names: list[str], certificates: Path) -> dict[str, dict[str, Any]]:
    """Run scenarios with this Python."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("scenarios.py")), *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_ALL,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCENARIO_CERTIFICATES": str(certificates),
        },
    )
    return results(done.stdout)


def shown(result: dict[str, Any] | None) -> str:
    """Return a cell of the table."""
    if result is None:
        return "nothing"
    return f"{result['seconds']:.2f}" if "seconds" in result else "FAILED"


def fault(name: str, *both: dict[str, Any] | None) -> str:
    """Return what is wrong with a scenario, '' for nothing."""
    for where, result in zip(("here", "under Wine"), both, strict=False):
        if result is None or result["fault"]:
            return f"{where}: {result['fault'] if result else 'it was not reached'}"
    seconds = [result["seconds"] for result in both if result is not None]
    if name not in _WORK and max(seconds) - min(seconds) > _APART:
        return f"more than {_APART} s apart"
    return ""


def report(names: list[str], columns: dict[str, dict[str, dict[str, Any]]]) -> int:
    """Print the table; return how many scenarios are wrong."""
    width = max(len(str(SCENARIOS[name].run.__doc__)) for name in names)
    print(f"{'scenario':<{width}}  " + "  ".join(f"{title:>10}" for title in columns))
    faults = 0
    for name in names:
        found = [column.get(name) for column in columns.values()]
        cells = "  ".join(f"{shown(result):>10}" for result in found)
        wrong = fault(name, *found)
        faults += bool(wrong)
        print(f"{SCENARIOS[name].run.__doc__:<{width}}  {cells}  {wrong}".rstrip())
    return faults


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.windows", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of the scenarios")
    parser.add_argument("--folder", type=Path, help="keep Windows' Python there for the next time")
    parser.add_argument("--here", action="store_true", help="only with this Python, without Wine")
    args = parser.parse_args()
    names = args.names or list(SCENARIOS)
    with tempfile.TemporaryDirectory(prefix="mormot_ws-windows-") as temporary:
        certificates = Path(temporary) / "certificates"
        certificates.mkdir()
        make_certificates(certificates)
        if args.here:
            return min(1, report(names, {sys.platform: here(names, certificates)}))
        try:
            python = wine_python((args.folder or Path(temporary) / "wine").resolve())
        except Unavailable as exc:
            print(f"\n*** NOTHING WAS TESTED UNDER WINE: {exc}\n", flush=True)
            return 1 if os.environ.get("CI") else 0

        def there(names: list[str]) -> dict[str, dict[str, Any]]:
            arguments = (windows_path(ROOT), windows_path(certificates), *names)
            return results(run(python, "-c", _UNDER_WINE, *arguments, seconds=_ALL))

        columns = {"Linux": here(names, certificates), "Windows": there(names)}
        again = [
            name for name in names if fault(name, *(one.get(name) for one in columns.values()))
        ]
        if again:
            # what something else on the machine has disturbed is all right the second time
            print("once more:", ", ".join(again), flush=True)
            columns["Linux"].update(here(again, certificates))
            columns["Windows"].update(there(again))
        faults = report(names, columns)
        print("\nthe demo under Wine:", flush=True)
        demo = "import os, runpy, sys; root = sys.argv[1]; os.environ['PYTHONPATH'] = root;"
        demo += " sys.path.insert(0, root); sys.argv = ['demo.py', '--pause', '0'];"
        demo += r" runpy.run_path(root + r'\examples\demo.py', run_name='__main__')"
        told = run(python, "-c", demo, windows_path(ROOT), seconds=_DEMO)
        print(told)
        if "The demo went well" not in told:
            print("the demo has failed under Wine")
            faults += 1
    return min(1, faults)


if __name__ == "__main__":
    sys.exit(main())
