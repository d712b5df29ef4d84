"""mORMot's REST protocols: requests and answers over one WebSocket connection."""
