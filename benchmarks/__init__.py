"""Speed, memory and fidelity. Run as modules; every result row says machine, versions, precision, masks, seed and commit."""
