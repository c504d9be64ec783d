"""Named methods of privacy, a file each."""
