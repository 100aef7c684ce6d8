"""The feed-forward blocks of diffusers models: `patch` is that of the transformers integration.

GEGLU, SwiGLU, GELU, ApproximateGELU and LinearActivation are fused with their projection. Names of
parameters, as net.0.proj.weight, stay.
"""

from fused_acts.integrations.transformers import Report, patch, unpatch

__all__ = ["Report", "patch", "unpatch"]
