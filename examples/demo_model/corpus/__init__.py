"""The text that the demo models learn from: written by templates and grammars of our own, by seed.

Every generator takes a random source and whether it writes held-out text. Held-out text is made only of number pairs,
names, story frames and phrasings that training text never has; `split` says which those are.
"""
