"""What a trained model can do with images that exist already: one edit per file, each a function of `undye`."""
