"""CatalogPlacer: today's items in towers that are trained already."""
