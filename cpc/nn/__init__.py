"""Networks: encoder, context, heads, and the baselines' front ends."""
