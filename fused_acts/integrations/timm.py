"""The MLPs of timm models: `patch` is that of the transformers integration.

Mlp, GluMlp, SwiGLUPacked and SwiGLU, where activation and gate are not along channels of images.
Names of parameters, as fc1_g.weight, stay.
"""

from fused_acts.integrations.transformers import Report, patch, unpatch

__all__ = ["Report", "patch", "unpatch"]
