"""Many runs over a cluster."""
