"""What anyone needs in order to check an LCA implementation; importing it loads NumPy only."""
