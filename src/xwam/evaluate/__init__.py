"""Numbers: images, depth, point clouds, actions, success."""
