"""Does a run look where good runs look?"""
