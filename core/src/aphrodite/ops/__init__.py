"""The operations of the contract: one file a family, each with schema, reference, portable form and examples."""
