"""Episodes on disk to clips: read, write, cut, augment, count."""
