"""Topics: publications with a history, and what connections of many processes hear of them."""
