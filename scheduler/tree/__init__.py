"""The radix tree of token prefixes, the pages beneath it, and what stays cached."""
