"""Places that are URLs: folders in a bucket, read and written like folders on a disk."""
