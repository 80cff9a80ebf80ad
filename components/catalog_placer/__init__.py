"""CatalogPlacer: a component that places today's items in trained towers."""
