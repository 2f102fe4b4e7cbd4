"""What a run would do, and one step of it in words."""
