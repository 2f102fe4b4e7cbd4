"""What a trained network does: it is evaluated and applied."""
