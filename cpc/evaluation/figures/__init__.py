"""Pictures of a trained model: each file draws one, from data to the path of a PNG or SVG."""
