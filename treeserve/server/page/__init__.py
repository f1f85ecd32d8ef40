"""The page: the live tree and charts of what it saves, in a browser."""
