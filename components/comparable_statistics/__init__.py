"""ComparableStatistics: statistics with the same bins on both sides, for TFX's DistributionValidator."""
