"""Named methods of low communication: files of one recipe each."""
