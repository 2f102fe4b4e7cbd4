"""Other formats to data sets."""
