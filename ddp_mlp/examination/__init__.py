"""What the doctor looks at before a run: each finding says what was found, whether that is fine, and what to do."""
