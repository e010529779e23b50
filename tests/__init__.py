"""A package, since eventkit installs one of the same name: the nearer one wins."""
