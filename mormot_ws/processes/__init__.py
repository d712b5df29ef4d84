"""One server in several OS processes on one machine.

``processes.py`` is the interface for applications, ``supervisor.py`` the thread in the parent,
``worker.py`` its view of a child, ``child.py`` the code in the child, ``status.py`` the snapshots.
"""
