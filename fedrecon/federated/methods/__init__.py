"""Named methods, one file each: a `Method`, and a recipe that makes an algorithm of it."""
