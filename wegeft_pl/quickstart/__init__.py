"""A SYNTHETIC fine-tuning task for two CPU cores: its word problems, its base, and the scripts that made both."""
