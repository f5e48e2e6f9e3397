import importlib.util
import inspect
import unittest


@unittest.skipUnless(importlib.util.find_spec("vllm"), "vllm is not installed here")
class Connector(unittest.TestCase):
    def test_it_is_what_vllm_wants(self) -> None:
        from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, supports_hma

        from armature_vllm.connector import ArmatureConnector

        self.assertEqual(ArmatureConnector.__abstractmethods__, frozenset())
        self.assertTrue(supports_hma(ArmatureConnector))
        for name, own in vars(ArmatureConnector).items():
            theirs = getattr(KVConnectorBase_V1, name, None)
            if name.startswith("__") or not inspect.isfunction(own) or theirs is None:
                continue
            self.assertEqual(list(inspect.signature(own).parameters), list(inspect.signature(theirs).parameters), name)
