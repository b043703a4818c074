"""aphrodite-toy: a whole device on host memory. Found through its entry point; nobody imports it by name.

Read it in this order: plugin (hooks), platform (the parts put together), memory, device, then layouts and kernels.
"""
