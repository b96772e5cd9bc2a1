"""What a trained model has learned, and what it looks at: figures, each with how it was made."""
