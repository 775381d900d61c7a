"""Development tools: the local stack, generated files, the wheel and the image."""
