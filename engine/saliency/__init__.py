"""The algebra of maps: similarities that are linear in the reference, the regression, the stopping rule, region matching."""
