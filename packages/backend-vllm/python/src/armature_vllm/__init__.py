"""vLLM's side of Armature's KV connector. vLLM loads `armature_vllm.connector.ArmatureConnector`; nothing here imports vLLM before that."""

from .frames import PROTOCOL_VERSION

__all__ = ["PROTOCOL_VERSION"]
__version__ = "0.1.0"
