"""Contest problems of public data sets, read into one record."""
