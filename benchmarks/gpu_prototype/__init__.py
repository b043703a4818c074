"""A GPU platform of torch and Triton alone: an early proof that the contract carries a captured decode."""
