"""The fused activations inside other libraries' models; none of these libraries is imported."""
