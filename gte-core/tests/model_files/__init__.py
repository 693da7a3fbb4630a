"""Model directories that differ from a working one in one key: what is changed, and what may
happen.
"""
