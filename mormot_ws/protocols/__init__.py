"""What a connection means: the protocols that applications derive from, and the list that a server
offers.
"""
