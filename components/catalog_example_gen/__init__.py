"""CatalogExampleGen: a component that writes one Example per item of the catalog."""
