"""The images that are explained."""
