"""One connection from the upgrade to its end: the loop and its parts, and the keeper's thread."""
