"""What a run writes into its folder: journal, console, lock, checkpoints, TensorBoard."""
