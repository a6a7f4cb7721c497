"""Training: one step, the loop, and its workers on Ray Train."""
