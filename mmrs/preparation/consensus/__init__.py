"""Several people's masks of one image to one mask: who agrees with himself, and where the cheapest borders are."""
