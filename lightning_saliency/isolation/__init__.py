"""Whatever a computation borrows is given back as it was found."""
