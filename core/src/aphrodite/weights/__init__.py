"""From files to packed device memory, a chunk at a time."""
