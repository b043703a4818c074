"""From logits to tokens, as a Program of its own: late host data (grammar masks) will arrive between the two."""
