"""Services: an interface is declared once and can be called from both sides."""
