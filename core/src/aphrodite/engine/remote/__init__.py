"""The engine in a process of its own: messages, the process, the client's side of it, and who starts it again."""
