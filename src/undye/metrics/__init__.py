"""What a model is worth, in numbers. One metric per file."""
