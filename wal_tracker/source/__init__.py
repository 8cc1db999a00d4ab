"""
Where changes come from: bytes from PostgreSQL to model items, and a confirmation back.

Knows no rule and no destination.
"""
