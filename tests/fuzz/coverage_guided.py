"""The same targets under atheris, which looks for inputs that reach new code of the library and of
h11.

``__main__.py`` runs this module as a process of its own for each target, because libFuzzer never
returns: ``python -m tests.fuzz.coverage_guided TARGET libFuzzer-options… CORPUS``.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["mormot_ws", "h11"], enable_loader_override=False):
    from .targets import TARGETS


def main() -> None:
    """Fuzz the target that is named by the first argument."""
    run = TARGETS[sys.argv[1]].run

    def one(data: bytes) -> None:
        run(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
