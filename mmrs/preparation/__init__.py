"""What is done before training: downloads, converters, synthetic scenes."""
