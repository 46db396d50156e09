"""Pictures of a trained model: each function draws one, from data to the path of a PNG or SVG."""
