"""The only SQL in the house: the contract of a store, and the databases that keep it."""
