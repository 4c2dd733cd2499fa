"""What a GeoTIFF is, whoever reads it: pixels, grids, windows, labels, tables of classes, statistics."""
