"""Topics: publications with a history, delivered to connections in any number of processes."""
