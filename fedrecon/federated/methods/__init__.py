"""Named methods, one file each: a `Method` where it changes training, and a recipe that returns an algorithm."""
