"""CatalogExampleGen: one Example per item of the catalog."""
