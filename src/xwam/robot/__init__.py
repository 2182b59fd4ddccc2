"""The robot's own words: rotations, layout, normalizer, actions. numpy only."""
