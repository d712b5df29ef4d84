"""Fuzzing of what reads a peer's bytes: ``python -m tests.fuzz [--seconds 60] [--target
all|frames|server|client|rest|key|services|loose|proxy|names] [--seed N]``.

``targets.py`` says what is fed and what must hold; ``plain.py`` is a random mutational fuzzer that
runs everywhere; ``coverage_guided.py`` runs the same targets under atheris, which ``__main__.py``
prefers when it can be imported.
"""
