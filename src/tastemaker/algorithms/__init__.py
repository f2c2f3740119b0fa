"""One short file an algorithm: what signal it takes from scores, and what loss it puts on the policy."""
