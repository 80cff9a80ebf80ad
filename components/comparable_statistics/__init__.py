"""ComparableStatistics: a component that writes statistics in common bins for DistributionValidator."""
