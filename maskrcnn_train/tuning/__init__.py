"""A search over the settings of a training: which settings vary, and the trials of all workers."""
