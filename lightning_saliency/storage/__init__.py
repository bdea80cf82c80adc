"""Write files whole, and read files without trusting them, in local and remote folders."""
