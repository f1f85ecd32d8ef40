"""Schemas of prompt modules as they are served: kept by tenant, imported, encoded ahead."""
