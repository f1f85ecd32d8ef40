"""Programs that nobody vouches for, run where they can harm nothing, within limits."""
