"""Write files whole, and read files without trusting them."""
