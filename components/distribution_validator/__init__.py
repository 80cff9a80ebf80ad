"""DistributionValidator: TFX's, with parameters that every backend can hand on."""
