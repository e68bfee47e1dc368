"""Images: lists of files with classes, pixels, transforms, and one file per layout of data sets."""
