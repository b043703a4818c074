"""aphrodite-cpu: runs Aphrodite on the host's processor. Found through its entry point; nobody imports it by name."""
