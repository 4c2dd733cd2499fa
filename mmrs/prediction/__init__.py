"""From an image of any size to a map."""
