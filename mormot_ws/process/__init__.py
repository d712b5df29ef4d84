"""The life of one connection: its loop, its sender, its liveness, and the thread that looks after
all of them.
"""
