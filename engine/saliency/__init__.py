"""The algebra of maps: similarities linear in the reference, the regression, the stopping rule, matching regions."""
