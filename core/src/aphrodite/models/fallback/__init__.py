"""Networks that no page describes, run as the modules that Transformers has for them, over our paged attention.

Transformers is imported when such a model is met, and not before.
"""
