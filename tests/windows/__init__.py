"""Windows: scenarios for any system, and what runs them under Wine. See ``__main__.py``."""
