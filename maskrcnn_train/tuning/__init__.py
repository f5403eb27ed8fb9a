"""A search over the settings of a training: what may vary, and the trials of all workers."""
