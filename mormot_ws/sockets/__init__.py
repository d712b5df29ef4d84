"""Sockets: connecting, TLS, proxies, and how bytes get through."""
