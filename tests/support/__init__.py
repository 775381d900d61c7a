"""What several tests lean on: fakes, vectors, and a second opinion."""
