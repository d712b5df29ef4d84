"""The same three programs in several libraries, and what becomes of them when something happens:
``python -m tests.comparisons``.

The programs themselves are in ``programs``, written as a good user of each library would.
"""
