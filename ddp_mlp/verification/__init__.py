"""Proof, on the user's machine, of what the program promises."""
