"""Images and labels: CelebA, CK+, folders of one's own and other layouts."""
