"""Tiny models of every family, with expected values from Hugging Face transformers in float64."""
