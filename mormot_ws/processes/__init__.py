"""One server in several OS processes of one machine.

``processes.py`` is what an application uses, ``supervisor.py`` the thread in the parent,
``worker.py`` what it knows of one child, ``child.py`` what runs there, ``status.py`` what is said
of all.
"""
