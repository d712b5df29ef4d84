"""Services: an interface that is declared once, and called from either end."""
