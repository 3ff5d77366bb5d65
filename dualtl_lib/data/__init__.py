"""Images and labels: CelebA, CK+ and folders like it."""
