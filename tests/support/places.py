"""Where things are: the project's folder, the address of all servers."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


HOST = "127.0.0.1"
