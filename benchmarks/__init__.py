"""Speed and memory of the altimetry: reading, filtering, fitting, and how each grows."""
