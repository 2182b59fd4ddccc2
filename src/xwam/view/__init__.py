"""Pictures: point clouds, pages, mosaics."""
